"""Measurements against a person's own baseline: columns of z-scores behind the raw ones.

The baseline is a person's first seconds in the file, or another file of the same person: mean and standard deviation
(of n - 1) of each column, from frames for frames and from clips for clips.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from streamfer.errors import ConfigError
from streamfer.export.columns import SCORE
from streamfer.export.rows import Cell, Row, Table
from streamfer.pipeline.events import Event, SourceDone, SourceStats

if TYPE_CHECKING:
    import pandas

    from streamfer.config import ClipConfig

Moments = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Either the first ``seconds`` of each person, or mean and deviation of the columns of each table of ``source``."""

    seconds: float = 0.0
    reference: Mapping[str, Moments] | None = None
    source: str = ""
    people: int = 1

    @classmethod
    def first(cls, text: str, clip: ClipConfig | None = None) -> Baseline | None:
        """Read ``10s``; None where the text names a file.

        Raises:
            ConfigError: it is neither, or no two clips end in it.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*s", text)
        if match is None:
            if "://" in text or Path(text).is_file():
                return None
            raise ConfigError(f"baseline {text!r}: neither a length of time, such as 10s, nor a file")
        least = clip.seconds + clip.stride if clip and clip.mode == "window" else 0.0
        if (seconds := float(match[1])) < least or not 0 < seconds < math.inf:
            raise ConfigError(
                f"baseline {text}: too short for the two clips that a deviation needs; give {least:g}s or more"
            )
        return cls(seconds)

    def remark(self, stats: SourceStats) -> str:
        """Say what is doubtful about holding a file against it; empty where nothing is."""
        if self.reference is None:
            short = stats.seconds < self.seconds
            return f"shorter than the baseline of {self.seconds:g} s: people are held against all of their time" * short
        if stats.tracks == self.people == 1:
            return ""
        who = "1 person is" if stats.tracks == 1 else f"{stats.tracks} people are"
        held = f"{who} held against the one seen longest of {self.people} in {self.source}"
        return held if stats.tracks else ""

    @classmethod
    def of(cls, source: str, tracks: pandas.DataFrame, tables: Mapping[str, pandas.DataFrame]) -> Baseline:
        """Return what the tables of a file, by name, say of the person who is seen most in it.

        Raises:
            ConfigError: nobody is labelled in it.
        """
        people = tracks.sort_values("frames", ascending=False)
        if not tracks.clips.sum():
            raise ConfigError(f"baseline {source}: shows no face long enough for a clip")
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for name, table in tables.items():
            own = table[(table.track == people.track.iloc[0]) & (table.epoch == people.epoch.iloc[0])]
            found[name] = {column: (own[column].mean(), own[column].std()) for column in own if _is_scored(column)}
        return cls(reference=found, source=source, people=int((people.clips > 0).sum()))


@dataclass(slots=True)
class _Person:
    """Sums of a person's first seconds; once they are over, the moments that come of them."""

    first: float
    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Cell]) -> None:
        for name, cell in row.items():
            if _is_scored(name) and isinstance(cell, float):
                sums = self.sums.setdefault(name, [0.0, 0.0, 0.0])
                # Welford's running mean and sum of squares.
                sums[0] += 1
                before = cell - sums[1]
                sums[1] += before / sums[0]
                sums[2] += before * (cell - sums[1])

    def moments(self) -> Moments:
        return {name: (mean, math.sqrt(squares / (n - 1))) for name, (n, mean, squares) in self.sums.items() if n > 1}


class Standardised:
    """A table with a column of z-scores for each probability and intensity, empty where there is no baseline.

    Rows wait, in order, until the baselines of their people are complete.
    """

    def __init__(self, table: Table, name: str, baseline: Baseline) -> None:
        self._table = table
        self._baseline = baseline
        self._reference = None if baseline.reference is None else baseline.reference[name]
        self._times = ("start_s", "end_s") if name == "clips" else ("seconds", "seconds")
        self._people: dict[Cell, _Person] = {}
        self._waiting: deque[dict[str, Cell]] = deque()
        self._now = (0, 0.0)

    def columns(self) -> Mapping[str, str]:
        columns = self._table.columns()
        return {**columns, **{f"{name}_z": SCORE for name in columns if _is_scored(name)}}

    def rows(self, event: Event) -> Iterator[Row]:
        """Yield the rows whose baselines are known."""
        for cells in self._table.rows(event):
            row = dict(zip(self._table.columns(), cells, strict=True))
            self._waiting.append(row)
            self._note(row)
        while self._waiting and (isinstance(event, SourceDone) or self._is_known(self._waiting[0])):
            row = self._waiting.popleft()
            yield [*row.values(), *self._scores(row)]

    def _note(self, row: Mapping[str, Cell]) -> None:
        start, end = (float(row[name] or 0.0) for name in self._times)
        self._now = max(self._now, (int(row["epoch"] or 0), end))
        if row["track"] is not None:
            person = self._people.setdefault(row["track_id"], _Person(start))
            if end <= person.first + self._baseline.seconds:
                person.add(row)

    def _is_known(self, row: Mapping[str, Cell]) -> bool:
        person = self._people.get(row["track_id"])
        over = person is None or self._now > (row["epoch"] or 0, person.first + self._baseline.seconds)
        return self._reference is not None or over

    def _scores(self, row: Mapping[str, Cell]) -> Iterator[Cell]:
        person = self._people.get(row["track_id"])
        moments = self._reference if self._reference is not None else person.moments() if person else {}
        for name in filter(_is_scored, row):
            cell, (mean, deviation) = row[name], moments.get(name, (0.0, 0.0))
            yield (cell - mean) / deviation if isinstance(cell, float) and deviation > 0 else None


def _is_scored(name: str) -> bool:
    return name.startswith("p_") or (name.startswith("AU") and name.endswith(("_r", "_mean", "_peak")))
