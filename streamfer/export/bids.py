"""Files of the Brain Imaging Data Structure (1.10): events with their dictionary, and action units as a recording.

Times are the file's own. The recording is headerless and gzipped: a row a tick of the analysed frames, a column a
person and unit.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from streamfer.export.columns import MEANING
from streamfer.export.job import Job
from streamfer.export.segments import CAPTION, Segment
from streamfer.export.tiers import SegmentFile
from streamfer.files import Spill, WholeText
from streamfer.pipeline.events import Event, FrameFaces, SourceOpened

_COLUMNS = ("onset", "duration", "trial_type", "tier", "person", "track_id", "probability", "text")
_OWN = {
    "trial_type": "what holds in the segment: the label, the unit's name, damaged, or caption",
    "text": MEANING["caption"],
    "person": "number of the person within the file, as in the tables",
}
#: A clock that leaps further than this many seconds ahead begins something else.
_LEAP_SECONDS = 3600.0


class EventsTsv(SegmentFile):
    """``_events.tsv``: one row a segment, in order of time."""

    def write(self, segments: Sequence[Segment]) -> None:
        self.file.write("\t".join(_COLUMNS) + "\n")
        for one in sorted(segments, key=lambda one: (one.media_begin, one.epoch, one.track)):
            probability = "n/a" if one.probability is None else f"{one.probability:.6f}"
            length = one.media_end - one.media_begin
            times = f"{one.media_begin:.3f}", f"{length:.3f}"
            kind, text = (CAPTION, one.value) if one.tier == CAPTION else (one.value, "n/a")
            cells = (*times, kind, one.tier, one.person, one.track_id or "n/a", probability, text)
            self.file.write("\t".join(" ".join(cell.split()) for cell in cells) + "\n")


class EventsJson(SegmentFile):
    """``_events.json``: what the columns mean."""

    def write(self, segments: Sequence[Segment]) -> None:
        """Write a description a column, and the levels of ``trial_type``."""
        # Onset and duration are the standard's own; what is a level of trial_type stands in its list.
        content: dict[str, Any] = {name: {"Description": _OWN.get(name) or MEANING[name]} for name in _COLUMNS[2:]}
        values = dict.fromkeys(CAPTION if one.tier == CAPTION else one.value for one in segments)
        content["trial_type"]["Levels"] = {value: f"{value} as the model reads it" for value in values}
        content["StimulusPresentation"] = {"SoftwareName": "streamfer"}
        json.dump(content, self.file, indent=2)


class Recording(WholeText):
    """``_physio.json`` and, beside it, ``_physio.tsv.gz``: which of the two is said by the path."""

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path)
        self._rate = float(job.settings.values["sampling"]["fps"])
        self._units: tuple[str, ...] = ()
        self._start: float | None = None
        self._last = -1
        self._people: set[tuple[int, int]] = set()
        self._ticks: Spill[tuple[int, dict[tuple[int, int], tuple[float, ...]]]] = Spill(tuple)

    def add(self, event: Event) -> None:
        if isinstance(event, SourceOpened):
            self._units = event.action_units
        elif isinstance(event, FrameFaces):
            moment = event.seconds if event.media_seconds is None else event.media_seconds
            self._start = moment if self._start is None else self._start
            tick = round((moment - self._start) * self._rate)
            if self._last < tick < self._last + _LEAP_SECONDS * self._rate:
                self._last = tick
                read = {(event.epoch, face.track): face.action_units for face in event.faces if face.action_units}
                self._people.update(read)
                self._ticks.append((tick, {who: tuple(units.values()) for who, units in read.items()}))

    def prepare(self) -> None:
        people = sorted(self._people)
        if self.path.suffix == ".json":
            names = [f"{_name(who)}_{unit}" for who in people for unit in self._units]
            content = {
                "PhysioType": "generic",
                "SamplingFrequency": self._rate,
                "StartTime": round(self._start or 0.0, 3),
                "Columns": names,
            }
            described = {
                name: {"Description": "intensity of the action unit, 0 to 1", "Units": "arbitrary"} for name in names
            }
            json.dump({**content, **described}, self.file, indent=2)
        else:
            self.file.close()
            # Without a time in its head, equal results are equal files.
            with self.part.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=cast(IO[bytes], raw)) as packed:
                packed.writelines(self._lines(people))
        super().prepare()

    def _lines(self, people: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        absent = "\t".join(["n/a"] * len(self._units))
        following = 0
        for tick, read in self._ticks:
            for found in (*[{}] * (tick - following), read):
                cells = (
                    "\t".join(f"{value:.6f}" for value in found[who]) if who in found else absent for who in people
                )
                yield ("\t".join(cells) + "\n").encode()
            following = tick + 1


def _name(who: tuple[int, int]) -> str:
    return f"P{f'{who[0] + 1}.' if who[0] else ''}{who[1]}"
