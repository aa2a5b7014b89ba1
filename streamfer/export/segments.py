"""Stretches of time that do not overlap, made of clips that do.

One rule for every tier: at each moment the clip whose centre is nearest speaks, cut where it changes, merged while it
stays. Clips that are no further apart than two analysed frames touch.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path

from streamfer.export.findings import Findings, Row
from streamfer.export.job import Job

EMOTION, CAPTION, DAMAGED = "emotion", "caption", "damaged"
_TOUCHING_FRAMES = 2.0
#: Begin, end, the file's own lead, and the step between analysed frames.
_Span = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Segment:
    """What holds of one person for a while."""

    tier: str  #: ``emotion``, ``caption``, an action unit, or ``damaged``, which is of the file
    track_id: str  #: with track and epoch: the person; "" and 0 for the file
    track: int
    epoch: int
    begin: float  #: and end: seconds from the file's first frame
    end: float
    media_begin: float  #: and media_end: the same by the file's own clock; equal to the former where it has none
    media_end: float
    value: str  #: label, caption, or name of the unit
    probability: float | None  #: mean over the segment's time, for a unit of its intensity; None for captions

    @property
    def person(self) -> str:
        """Name for people to read: ``Person 1``; with the epoch ahead behind the first, ``Person 2.1``; ``File``."""
        if not self.track:
            return "File"
        return f"Person {f'{self.epoch + 1}.' if self.epoch else ''}{self.track}"


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one clip says on one tier; ``value`` None says that nothing holds. ``media`` is the file's own lead."""

    begin: float
    end: float
    media: float
    step: float
    value: str | None
    weight: float | None

    @property
    def centre(self) -> float:
        return (self.begin + self.end) / 2


@dataclass(slots=True)
class _Person:
    """What a person's clips say; units are numbers side by side where objects would take hundreds of bytes."""

    track_id: str
    last: float  #: when it was seen last, seconds
    clips: list[tuple[_Span, str | None, float, array[float]]] = field(default_factory=list)
    captions: list[_Reading] = field(default_factory=list)

    def tiers(self, thresholds: Mapping[str, float]) -> Iterator[tuple[str, list[_Reading]]]:
        yield EMOTION, [_Reading(*span, label, weight) for span, label, weight, _ in self.clips]
        for place, (unit, least) in enumerate(thresholds.items()):
            means = ((span, units[place]) for span, _, _, units in self.clips)
            yield unit, [_Reading(*span, unit if mean >= least else None, mean) for span, mean in means]
        yield CAPTION, self.captions


def segments_of(found: Findings) -> Iterator[Segment]:
    """Yield the file's and all people's segments, tier by tier, in order of time; none is empty."""
    for gap in found.damage:
        begin, end = round(gap.start_time, 3), round(gap.end_time, 3)
        lead = 0.0 if gap.media_start_time is None else gap.media_start_time - gap.start_time
        if end > begin:
            times = (begin, end, round(begin + lead, 3), round(end + lead, 3))
            yield Segment(DAMAGED, "", 0, gap.epoch, *times, DAMAGED, None)
    lasts = {(frame.epoch, face.track): frame.seconds for frame in found.frames for face in frame.faces}
    people: dict[tuple[int, int], _Person] = {}
    for row in chain(found.clips, found.captions):
        who, lead = (row["epoch"], row["track"]), row["start_s"] - row["epoch_s"]
        # A clip may end after its person was seen last.
        person = people.setdefault(who, _Person(row["track_id"], round(lasts.get(who, math.inf) + lead, 3)))
        if "caption" in row:
            person.captions.append(_Reading(*_span(row), row["caption"], None))
        else:
            units = array("d", (row.get(f"{name}_mean", 0.0) for name in found.thresholds))
            label = row["label"] if found.classes else None
            person.clips.append((_span(row), label, row["probability"], units))
    for epoch, track in sorted(people):
        person = people[epoch, track]
        for tier, readings in person.tiers(found.thresholds):
            for begin, until, media, value, weight in _merged(readings):
                if (end := min(until, person.last)) <= begin:
                    continue
                times = (begin, end, round(begin + media, 3), round(end + media, 3))
                yield Segment(tier, person.track_id, track, epoch, *times, value, weight)


def segment_rows(found: Findings) -> Iterator[Row]:
    """Yield one row a segment."""
    for one in segments_of(found):
        yield {
            **{"source": found.done.source_id, "tier": one.tier, "epoch": one.epoch, "value": one.value},
            **{"track_id": one.track_id or None, "track": one.track or None, "probability": one.probability},
            **{"begin_s": one.begin, "end_s": one.end},
            **{"media_begin_s": one.media_begin, "media_end_s": one.media_end},
        }


def _span(row: Row) -> _Span:
    begin, end, media = row["start_s"], row["end_s"], row["media_start_s"]
    return begin, end, 0.0 if media is None else media - begin, (end - begin) / max(1, row["frames_sampled"] - 1)


def _merged(readings: Sequence[_Reading]) -> Iterator[tuple[float, float, float, str, float | None]]:
    """Yield begin, end, lead of the file's own clock, value and mean weight, by the rule of this module."""
    ordered = sorted(readings, key=lambda reading: (reading.centre, reading.begin))
    begins = [reading.begin for reading in ordered]
    ends = [reading.end for reading in ordered]
    for number, (one, other) in enumerate(pairwise(ordered)):
        low, high = min(one.end, other.begin), max(one.end, other.begin)
        if other.begin - one.end <= _TOUCHING_FRAMES * max(one.step, other.step):
            ends[number] = begins[number + 1] = min(max((one.centre + other.centre) / 2, low), high)
    open_: list[tuple[float, float, _Reading]] = []
    for begin, end, reading in zip(begins, ends, ordered, strict=True):
        if round(end, 3) <= round(begin, 3):
            continue
        if open_ and (open_[-1][1] != begin or not _same(open_[-1][2], reading)):
            yield from _closed(open_)
            open_ = []
        open_.append((begin, end, reading))
    yield from _closed(open_)


def _same(one: _Reading, other: _Reading) -> bool:
    return one.value == other.value and abs(one.media - other.media) < 0.001


def _closed(parts: Sequence[tuple[float, float, _Reading]]) -> Iterator[tuple[float, float, float, str, float | None]]:
    """Yield the one segment that parts of one value make; none where nothing holds or it takes no time."""
    if not parts or (value := parts[0][2].value) is None:
        return
    begin, end = round(parts[0][0], 3), round(parts[-1][1], 3)
    weights = [(part.weight, until - since) for since, until, part in parts if part.weight is not None]
    total = sum(length for _, length in weights)
    mean = sum(weight * length for weight, length in weights) / total if total else None
    yield begin, end, parts[0][2].media, value, mean


class Film:
    """A source as the writers of its files see it: what was found, what is to be made of it, and its segments."""

    def __init__(self, found: Findings, job: Job) -> None:
        self.found, self.job = found, job

    @cached_property
    def segments(self) -> list[Segment]:
        """All segments in the order of :func:`segments_of`, times from the file's zero on.

        Players and annotation tools know no time before it.
        """
        found = (one for one in segments_of(self.found) if one.media_end > 0)
        return [replace(one, media_begin=max(0.0, one.media_begin)) for one in found]

    @property
    def media(self) -> Path:
        """The video, as an absolute path."""
        spec = self.job.spec
        return Path("/", Path(spec.place).name) if spec.place else Path(os.path.abspath(spec.url))
