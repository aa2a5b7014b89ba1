"""Stretches of time that do not overlap, made of clips that do.

One rule for every tier: at each moment the clip whose centre is nearest speaks, cut where it changes, merged while it
stays. Clips that are no further apart than two analysed frames touch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from streamfer.export.columns import SEGMENT_COLUMNS
from streamfer.export.rows import UNIT_PRESENT, Row, damage
from streamfer.pipeline.events import Event, SourceDone, SourceOpened
from streamfer.records import ClipCaptioned, ClipLabelled, ClipSpan, Record

EMOTION, CAPTION, DAMAGED = "emotion", "caption", "damaged"
_TOUCHING_FRAMES = 2.0


@dataclass(frozen=True, slots=True)
class Segment:
    """What holds of one person for a while.

    Attributes:
        tier: ``emotion``, ``caption``, an action unit, or ``damaged``, which is of the file.
        track_id, track, epoch: the person; "" and 0 for the file.
        begin, end: seconds from the file's first frame.
        media_begin, media_end: the same by the file's own clock; equal to the former where it has none.
        value: label, caption, or name of the unit.
        probability: mean over the segment's time, for a unit of its intensity; None for captions.
    """

    tier: str
    track_id: str
    track: int
    epoch: int
    begin: float
    end: float
    media_begin: float
    media_end: float
    value: str
    probability: float | None

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
    track_id: str
    clips: list[tuple[ClipSpan, str | None, float, Mapping[str, float]]] = field(default_factory=list)
    captions: list[tuple[ClipSpan, str]] = field(default_factory=list)

    def tiers(self, units: Sequence[str], thresholds: Mapping[str, float]) -> Iterator[tuple[str, list[_Reading]]]:
        yield EMOTION, [_reading(clip, label, weight) for clip, label, weight, _ in self.clips]
        for unit in units:
            least = thresholds.get(unit, UNIT_PRESENT)
            means = [(clip, found.get(unit, 0.0)) for clip, _, _, found in self.clips]
            yield unit, [_reading(clip, unit if mean >= least else None, mean) for clip, mean in means]
        yield CAPTION, [_reading(clip, text, None) for clip, text in self.captions]


class Segmenter:
    """Collects the clips of one source; a few numbers each.

    Attributes:
        thresholds: for each action unit of the model, the intensity from which it counts as present.
        classes: labels that a clip may get.
    """

    def __init__(self) -> None:
        self.thresholds: dict[str, float] = {}
        self.classes: tuple[str, ...] = ()
        self._people: dict[tuple[int, int], _Person] = {}
        self._damaged: list[Segment] = []

    def add(self, event: Event) -> None:
        """Take the next event; those of other kinds are ignored."""
        if isinstance(event, SourceOpened):
            self.classes = event.classes
            known = dict(zip(event.action_units, event.action_thresholds, strict=False))
            self.thresholds = {name: known.get(name, UNIT_PRESENT) for name in event.action_units}
        elif isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            for face in event.data.faces:
                person = self._person(event.data.clip, face.track, face.track_id)
                person.clips.append(
                    (event.data.clip, face.label if face.emotions else None, face.probability, face.action_units or {})
                )
                for name in face.action_units or ():
                    self.thresholds.setdefault(name, UNIT_PRESENT)
        elif (gap := damage(event)) is not None:
            begin, end = round(gap.start_time, 3), round(gap.end_time, 3)
            lead = 0.0 if gap.media_start_time is None else gap.media_start_time - gap.start_time
            times = (begin, end, round(begin + lead, 3), round(end + lead, 3))
            self._damaged.append(Segment(DAMAGED, "", 0, gap.epoch, *times, DAMAGED, None))
        elif isinstance(event, Record) and isinstance(event.data, ClipCaptioned):
            data = event.data
            self._person(data.clip, data.track, data.track_id).captions.append((data.clip, data.text))

    def segments(self) -> list[Segment]:
        """Return the file's and all people's segments, tier by tier, in order of time; none is empty."""
        found = [one for one in self._damaged if one.end > one.begin]
        for (epoch, track), person in sorted(self._people.items()):
            for tier, readings in person.tiers(tuple(self.thresholds), self.thresholds):
                for begin, end, media, value, weight in _merged(readings):
                    times = (begin, end, round(begin + media, 3), round(end + media, 3))
                    found.append(Segment(tier, person.track_id, track, epoch, *times, value, weight))
        return found

    def _person(self, clip: ClipSpan, track: int, track_id: str) -> _Person:
        return self._people.setdefault((clip.epoch, track), _Person(track_id))


def _reading(clip: ClipSpan, value: str | None, weight: float | None) -> _Reading:
    lead = 0.0 if clip.media_start_time is None else clip.media_start_time - clip.start_time
    step = (clip.end_time - clip.start_time) / max(1, clip.frames_sampled - 1)
    return _Reading(clip.start_time, clip.end_time, lead, step, value, weight)


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


class SegmentTable:
    """One row a segment; rows come when the source ends."""

    def __init__(self) -> None:
        self._segmenter = Segmenter()

    def columns(self) -> Mapping[str, str]:
        """Return the columns and the formats of their cells."""
        return SEGMENT_COLUMNS

    def rows(self, event: Event) -> Iterator[Row]:
        """Take note of clips; yield the rows when the source ends."""
        self._segmenter.add(event)
        if isinstance(event, SourceDone):
            for one in self._segmenter.segments():
                times = (one.begin, one.end, one.media_begin, one.media_end)
                person = (one.track_id or None, one.track or None, one.epoch)
                yield [event.source_id, one.tier, *person, *times, one.value, one.probability]
