"""Measurements against a person's own baseline: columns of z-scores behind the raw ones.

The baseline is a person's first seconds in the file, or another file of the same person: mean and standard deviation
(of n - 1) of each column, from frames for frames and from clips for clips.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfer.errors import ConfigError
from streamfer.export.columns import FORMAT
from streamfer.export.findings import Cell, Row
from streamfer.export.rows import Table
from streamfer.pipeline.events import SourceStats

if TYPE_CHECKING:
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
        """Read ``10s``; None where the text names a file; a ConfigError: it is neither, or no two clips end in it."""
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
    def of(cls, file: Any) -> Baseline:
        """Return what the tables of an annotated file say of the person who is seen most in it.

        Raises:
            ConfigError: nobody is labelled in it.
        """
        people = file.tracks.sort_values("frames", ascending=False)
        if not people.clips.sum():
            raise ConfigError(f"baseline {file.source}: shows no face long enough for a clip")
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for name, table in (("clips", file.clips), ("frames", file.frames)):
            own = table[(table.track == people.track.iloc[0]) & (table.epoch == people.epoch.iloc[0])]
            found[name] = {column: (own[column].mean(), own[column].std()) for column in own if _is_scored(column)}
        return cls(reference=found, source=file.source, people=int((people.clips > 0).sum()))


def standardised(table: Table, name: str, baseline: Baseline) -> Table:
    """Return a table with a column of z-scores for each probability and intensity, empty where there is no baseline."""
    scored = [column for column in table.columns if _is_scored(column)]

    def rows() -> Iterator[Row]:
        known = None if baseline.reference is None else baseline.reference[name]
        people = _first_moments(table, scored, baseline.seconds) if known is None else {}
        for row in table.rows():
            moments = people.get((row["epoch"], row.get("track")), {}) if known is None else known
            scores = {}
            for column in scored:
                cell, (mean, deviation) = row.get(column), moments.get(column, (0.0, 0.0))
                if isinstance(cell, float) and deviation > 0:
                    scores[f"{column}_z"] = (cell - mean) / deviation
            yield {**row, **scores}

    return Table({**table.columns, **{f"{column}_z": FORMAT["<column>_z"] for column in scored}}, rows)


def _first_moments(table: Table, scored: Iterable[str], seconds: float) -> dict[tuple[Cell, Cell], Moments]:
    """Return mean and deviation of each column in the first seconds of each person (Welford 1962: no value is kept)."""
    begins: dict[tuple[Cell, Cell], float] = {}
    sums: defaultdict[tuple[Cell, Cell], dict[str, tuple[int, float, float]]] = defaultdict(dict)
    for row in table.rows():
        who, moment = (row["epoch"], row.get("track")), row.get("seconds")
        begin, end = (float(row.get(time, moment) or 0.0) for time in ("start_s", "end_s"))
        if who[1] is not None and end <= begins.setdefault(who, begin) + seconds:
            for column in scored:
                if isinstance(cell := row.get(column), float):
                    count, mean, squares = sums[who].get(column, (0, 0.0, 0.0))
                    moved = mean + (cell - mean) / (count + 1)
                    sums[who][column] = (count + 1, moved, squares + (cell - mean) * (cell - moved))
    return {
        who: {
            name: (mean, math.sqrt(squares / (count - 1))) for name, (count, mean, squares) in of.items() if count > 1
        }
        for who, of in sums.items()
    }


def _is_scored(name: str) -> bool:
    return name.startswith("p_") or (name.startswith("AU") and name.endswith(("_r", "_mean", "_peak")))
