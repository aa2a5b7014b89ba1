"""Stretches of time that do not overlap, made of clips that do.

One rule for every tier: at each moment the clip whose centre is nearest speaks, cut where it changes, merged while it
stays. Clips that are no further apart than two analysed frames touch.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from streamfer.export.columns import SEGMENT_COLUMNS
from streamfer.export.rows import UNIT_PRESENT, Row, damage
from streamfer.pipeline.events import Event, SourceDone, SourceOpened
from streamfer.records import ClipCaptioned, ClipLabelled, ClipSpan, FaceReading, Record

EMOTION, CAPTION, DAMAGED = "emotion", "caption", "damaged"
_TOUCHING_FRAMES = 2.0


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
    """What a person's clips say, a number each where objects would take hundreds of bytes: files last for hours."""

    track_id: str
    spans: array[float] = field(default_factory=lambda: array("d"))
    labels: list[str | None] = field(default_factory=list)
    weights: array[float] = field(default_factory=lambda: array("d"))
    units: array[float] = field(default_factory=lambda: array("d"))
    captions: list[_Reading] = field(default_factory=list)

    def add(self, clip: ClipSpan, face: FaceReading, units: Iterable[str]) -> None:
        found = face.action_units or {}
        self.spans.extend(_span(clip))
        self.labels.append(face.label if face.emotions else None)
        self.weights.append(face.probability)
        self.units.extend(found.get(name, 0.0) for name in units)

    def tiers(self, thresholds: Mapping[str, float]) -> Iterator[tuple[str, list[_Reading]]]:
        begins, ends, leads, steps = (self.spans[place::4] for place in range(4))
        spans = list(zip(begins, ends, leads, steps, strict=True))
        said = zip(spans, self.labels, self.weights, strict=True)
        yield EMOTION, [_Reading(*span, label, weight) for span, label, weight in said]
        for place, (unit, least) in enumerate(thresholds.items()):
            means = zip(spans, self.units[place :: len(thresholds)], strict=True)
            yield unit, [_Reading(*span, unit if mean >= least else None, mean) for span, mean in means]
        yield CAPTION, self.captions


class Segmenter:
    """Collects the clips of one source; a few numbers each."""

    def __init__(self) -> None:
        #: for each action unit of the model, the intensity from which it counts as present
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
                if not self._people:
                    # Where no source was opened, the first face says what the model reads.
                    self.thresholds = dict.fromkeys(face.action_units or (), UNIT_PRESENT) | self.thresholds
                self._person(event.data.clip, face.track, face.track_id).add(event.data.clip, face, self.thresholds)
        elif (gap := damage(event)) is not None:
            begin, end = round(gap.start_time, 3), round(gap.end_time, 3)
            lead = 0.0 if gap.media_start_time is None else gap.media_start_time - gap.start_time
            times = (begin, end, round(begin + lead, 3), round(end + lead, 3))
            self._damaged.append(Segment(DAMAGED, "", 0, gap.epoch, *times, DAMAGED, None))
        elif isinstance(event, Record) and isinstance(event.data, ClipCaptioned):
            data = event.data
            reading = _Reading(*_span(data.clip), data.text, None)
            self._person(data.clip, data.track, data.track_id).captions.append(reading)

    def segments(self) -> Iterator[Segment]:
        """Yield the file's and all people's segments, tier by tier, in order of time; none is empty."""
        yield from (one for one in self._damaged if one.end > one.begin)
        for epoch, track in sorted(self._people):
            person = self._people[epoch, track]
            for tier, readings in person.tiers(self.thresholds):
                for begin, end, media, value, weight in _merged(readings):
                    times = (begin, end, round(begin + media, 3), round(end + media, 3))
                    yield Segment(tier, person.track_id, track, epoch, *times, value, weight)

    def _person(self, clip: ClipSpan, track: int, track_id: str) -> _Person:
        return self._people.setdefault((clip.epoch, track), _Person(track_id))


def _span(clip: ClipSpan) -> tuple[float, float, float, float]:
    """Return begin, end, the file's own lead, and the step between analysed frames."""
    lead = 0.0 if clip.media_start_time is None else clip.media_start_time - clip.start_time
    return clip.start_time, clip.end_time, lead, (clip.end_time - clip.start_time) / max(1, clip.frames_sampled - 1)


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
        return SEGMENT_COLUMNS

    def rows(self, event: Event) -> Iterator[Row]:
        """Take note of clips; yield the rows when the source ends."""
        self._segmenter.add(event)
        if isinstance(event, SourceDone):
            for one in self._segmenter.segments():
                times = (one.begin, one.end, one.media_begin, one.media_end)
                person = (one.track_id or None, one.track or None, one.epoch)
                yield [event.source_id, one.tier, *person, *times, one.value, one.probability]
