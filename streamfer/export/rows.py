"""Rows of the tables: one builder for CSV files and for DataFrames, from the events of one source.

A table says its columns, each with the format that its cells are printed in, and turns events into rows of plain
values. What a file holds as text, a DataFrame holds as a number rounded to the same digits.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol

from streamfer.export.columns import (
    CAPTION_COLUMNS,
    CLIP_COLUMNS,
    FILE_COLUMNS,
    FORMAT,
    FRAME_COLUMNS,
    MEDIA_MOMENT,
    MEDIA_SPAN,
    TIME,
    TRACK_COLUMNS,
)
from streamfer.pipeline.events import Event, FrameFaces, SourceDone, SourceOpened
from streamfer.records import UNSURE, ClipCaptioned, ClipLabelled, FaceReading, Gap, Record

if TYPE_CHECKING:
    import pandas

Cell = str | int | float | None
Row = list[Cell]

#: Intensity from which an action unit counts as present where the model has no threshold for it.
UNIT_PRESENT = 0.5


class Table(Protocol):
    """What one source's events come to, row by row."""

    def columns(self) -> Mapping[str, str]:
        """Return the columns in order with the formats of their cells; final once a row was made or all was seen."""

    def rows(self, event: Event) -> Iterable[Row]:
        """Return the rows that the next event makes; none for events of other kinds."""


class ModelColumns:
    """Classes and action units that have columns: what the opened source states, else what the first face shows."""

    def __init__(self) -> None:
        self.classes: tuple[str, ...] | None = None
        self.units: tuple[str, ...] = ()
        self.thresholds: Mapping[str, float] = {}

    def opened(self, event: Event) -> None:
        if isinstance(event, SourceOpened):
            self.note(event.classes, event.action_units)
            self.thresholds = dict(zip(event.action_units, event.action_thresholds, strict=False))

    def note(self, classes: Iterable[str], units: Iterable[str]) -> None:
        """Take these names unless there are some."""
        if self.classes is None:
            self.classes, self.units = tuple(classes), tuple(units)

    def columns(self, *patterns: str) -> dict[str, str]:
        """Return the columns that patterns of the dictionary, such as ``p_<class>``, come to, with their formats."""
        return {
            pattern.replace("<class>", name).replace("<unit>", name): FORMAT[pattern]
            for pattern in patterns
            for name in (self.labels if pattern.startswith("share") else self._names(pattern))
        }

    @property
    def labels(self) -> tuple[str, ...]:
        """What a clip may be called: nothing where emotions are withheld."""
        return () if self.classes == () else (*(self.classes or ()), UNSURE)

    def _names(self, pattern: str) -> tuple[str, ...]:
        return self.units if "<unit>" in pattern else self.classes or ()

    def read(self, found: Mapping[str, float] | None) -> Row:
        """Return a cell for each unit that has a column: empty for a face that was not encoded."""
        return [found[name] if found else None for name in self.units]


class ClipTable:
    """One row a labelled clip and track; times in seconds, boxes as fractions of the frame.

    The columns are the same for every source of a run, those without a clip included.
    """

    def __init__(self) -> None:
        self._model = ModelColumns()

    def columns(self) -> Mapping[str, str]:
        return {**CLIP_COLUMNS, **self._model.columns("p_<class>", "<unit>_mean", "<unit>_peak"), **MEDIA_SPAN}

    def rows(self, event: Event) -> Iterator[Row]:
        """Yield a row for each face of a labelled clip."""
        self._model.opened(event)
        if not (isinstance(event, Record) and isinstance(event.data, ClipLabelled)):
            return
        clip, model = event.data.clip, event.data.model
        for face in event.data.faces:
            self._model.note(face.emotions, face.action_units or ())
            yield [
                *(event.subject, event.id, face.track_id, face.track, clip.start_time, clip.end_time),
                *(face.label, face.probability, face.reason, clip.frames_sampled, clip.frames_real),
                *(*face.box, face.det_score, face.quality, model.name, clip.epoch),
                *face.emotions.values(),
                *self._model.read(face.action_units),
                *self._model.read(face.action_units_peak),
                *(clip.media_start_time, clip.media_end_time),
            ]


class FrameTable:
    """One row a face of an analysed frame; a frame without a face has one row with empty cells."""

    def __init__(self) -> None:
        self._model = ModelColumns()

    def columns(self) -> Mapping[str, str]:
        return {**FRAME_COLUMNS, **self._model.columns("<unit>_r"), **MEDIA_MOMENT}

    def rows(self, event: Event) -> Iterator[Row]:
        self._model.opened(event)
        if not isinstance(event, FrameFaces):
            return
        self._model.note((), ())
        head: Row = [event.source_id, event.epoch, event.index, event.seconds, len(event.faces)]
        for face in event.faces:
            seen = (face.track_id, face.track, *face.box, face.score, face.quality)
            yield [*head, *seen, *self._model.read(face.action_units), event.media_seconds]
        if not event.faces:
            yield [*head, *[None] * (len(self.columns()) - len(head) - 1), event.media_seconds]


class CaptionTable:
    """One row a described clip; ``clip_id`` is that of the clip table, times in seconds, keyframes with blanks."""

    def columns(self) -> Mapping[str, str]:
        return {**CAPTION_COLUMNS, **MEDIA_SPAN}

    def rows(self, event: Event) -> Iterator[Row]:
        if not (isinstance(event, Record) and isinstance(event.data, ClipCaptioned)):
            return
        data, clip = event.data, event.data.clip
        # Keyframes are counted from the epoch's zero, as the clip's own pts are, whose time is known.
        numerator, denominator = clip.time_base
        moments = [clip.start_time + (pts - clip.start_pts) * numerator / denominator for pts in data.keyframes_pts]
        yield [
            *(event.subject, data.clip_id, data.track_id, data.track, clip.start_time, clip.end_time, data.text),
            *(" ".join(f"{moment:.3f}" for moment in moments), data.model.name, clip.epoch),
            *(clip.media_start_time, clip.media_end_time),
        ]


_SUMMARY = ("p_<class>", "<unit>_mean", "share_<class>", "<unit>_peak", "<unit>_present")


@dataclass(slots=True)
class _Person:
    """What is known of one track, or of all of a file: sums over its clips, and when it was in the picture."""

    track_id: str = ""
    start: float = 0.0
    end: float = 0.0
    media_start: float | None = None
    media_end: float | None = None
    frames: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    #: By the model's order: sums of classes, sums of units, clips in which a unit is present; highest of each unit.
    sums: array[float] = field(default_factory=lambda: array("d"))
    peaks: array[float] = field(default_factory=lambda: array("d"))

    def seen(self, frame: FrameFaces) -> None:
        self.start = min(self.start, frame.seconds) if self.frames else frame.seconds
        self.end = max(self.end, frame.seconds)
        if frame.media_seconds is not None:
            # A file's own clock may jump back: a person's first moment is the first that was seen.
            self.media_start = frame.media_seconds if self.media_start is None else self.media_start
            self.media_end = frame.media_seconds
        self.frames += 1

    def add(self, face: FaceReading, model: ModelColumns) -> None:
        means, peaks = face.action_units or {}, face.action_units_peak or {}
        self.labels[face.label] += 1
        cells = [face.emotions.get(name, 0.0) for name in model.classes or ()]
        cells += [means.get(name, 0.0) for name in model.units]
        cells += [means.get(name, -inf) >= model.thresholds.get(name, UNIT_PRESENT) for name in model.units]
        self.sums = array("d", map(sum, zip(self.sums or [0.0] * len(cells), cells, strict=True)))
        highest = [peaks.get(name, -inf) for name in model.units]
        self.peaks = array("d", map(max, zip(self.peaks or highest, highest, strict=True)))

    def summary(self, model: ModelColumns) -> Row:
        """Return number of clips, most frequent label with its share, and a cell for each of ``_SUMMARY``."""
        clips = self.labels.total()
        label, count = next(iter(self.labels.most_common(1)), (None, 0))
        classes, units = model.classes or (), len(model.units)
        if not clips:
            empty = [None] * (2 + len(classes) + len(model.labels) + 3 * units)
            return [0, *empty, self.media_start, self.media_end]
        means = [total / clips for total in self.sums]
        present = len(means) - units
        shares = [self.labels[name] / clips for name in model.labels]
        highest = [None if peak == -inf else peak for peak in self.peaks]
        return [
            *(clips, label, count / clips, *means[:present], *shares, *highest, *means[present:]),
            *(self.media_start, self.media_end),
        ]


class TrackTable:
    """One row a track: when it was in the picture, its most frequent label and that label's share of its clips.

    Behind these stands the summary over its clips, empty for a track that was never labelled.
    """

    def __init__(self) -> None:
        self._model = ModelColumns()
        self._people: dict[tuple[int, int], _Person] = {}

    def columns(self) -> Mapping[str, str]:
        return {**TRACK_COLUMNS, **self._model.columns(*_SUMMARY), **MEDIA_SPAN}

    def rows(self, event: Event) -> Iterator[Row]:
        """Take note of faces and clips; yield the rows when the source ends."""
        self._model.opened(event)
        if isinstance(event, FrameFaces):
            for face in event.faces:
                self._people.setdefault((event.epoch, face.track), _Person(face.track_id)).seen(event)
        elif isinstance(event, SourceDone):
            for (epoch, track), person in sorted(self._people.items()):
                span = (person.start, person.end, person.frames)
                yield [event.source_id, person.track_id, track, epoch, *span, *person.summary(self._model)]
        elif isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            for reading in event.data.faces:
                self._model.note(reading.emotions, reading.action_units or ())
                place = event.data.clip.epoch, reading.track
                person = self._people.setdefault(place, _Person(reading.track_id))
                person.add(reading, self._model)


def damage(event: Event) -> Gap | None:
    """Return the stretch of damaged pictures that an event tells of."""
    data = event.data if isinstance(event, Record) else None
    return data if isinstance(data, Gap) and data.cause == "decode_error" else None


class FileTable:
    """The one row of a file: what it is, what it came to, and the summary over all its people's clips."""

    def __init__(self) -> None:
        self._model = ModelColumns()
        self._everybody = _Person()
        self._digest: str | None = None
        self._with_faces = 0
        self._damaged = 0.0

    def columns(self) -> Mapping[str, str]:
        return {**FILE_COLUMNS, **self._model.columns(*_SUMMARY), **MEDIA_SPAN, "damaged_s": TIME}

    def rows(self, event: Event) -> Iterator[Row]:
        """Take note of frames and clips; yield the row when the source ends."""
        self._model.opened(event)
        if isinstance(event, SourceOpened):
            self._digest = self._digest or event.info.epoch_key
        elif isinstance(event, FrameFaces):
            self._everybody.seen(event)
            self._with_faces += bool(event.faces)
        elif isinstance(event, SourceDone):
            stats = event.stats
            status = "partial" if event.cut_off else "done"
            yield [
                *(event.source_id, status, event.note or None, self._digest, stats.seconds),
                *(stats.frames_decoded, self._everybody.frames, self._with_faces, stats.tracks),
                *self._everybody.summary(self._model),
                self._damaged,
            ]
        elif (gap := damage(event)) is not None:
            self._damaged += gap.end_time - gap.start_time
        elif isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            for reading in event.data.faces:
                self._model.note(reading.emotions, reading.action_units or ())
                self._everybody.add(reading, self._model)


def printed(row: Sequence[Cell], columns: Mapping[str, str]) -> list[str]:
    """Return the cells of a row as a CSV file holds them."""
    return ["" if cell is None else format(cell, spec) for cell, spec in zip(row, columns.values(), strict=True)]


def data_frame(table: Table, events: Iterable[Event]) -> pandas.DataFrame:
    """Return what a table's file holds as a DataFrame: the same columns, numbers rounded to the same digits."""
    import pandas

    # As in a table that is read back, an empty cell is NaN whatever its column holds.
    rows = [[math.nan if cell is None else cell for cell in row] for event in events for row in table.rows(event)]
    columns = table.columns()
    digits = {name: int(spec[1:-1]) for name, spec in columns.items() if spec.endswith("f")}
    found = pandas.DataFrame(rows, columns=list(columns))
    # A column of empty cells alone is one of numbers, too.
    return found.astype(dict.fromkeys(digits, "float64")).round(digits)
