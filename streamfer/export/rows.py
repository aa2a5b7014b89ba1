"""Rows of the tables: one builder for CSV files and for DataFrames, from the events of one source.

A table says its columns, each with the format that its cells are printed in, and turns events into rows of plain
values. What a file holds as text, a DataFrame holds as a number rounded to the same digits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from streamfer.pipeline.events import Event, FrameFaces, SourceDone, SourceOpened
from streamfer.records import ClipCaptioned, ClipLabelled, FaceReading, Record

if TYPE_CHECKING:
    import pandas

Cell = str | int | float | None
Row = list[Cell]

_PLAIN, _TIME, _SHARE, _SCORE = "", ".3f", ".6f", ".4f"
_BOX = {"x": _SHARE, "y": _SHARE, "width": _SHARE, "height": _SHARE}
_TRACK = {"track_id": _PLAIN, "track": _PLAIN}
_SPAN = {"start_s": _TIME, "end_s": _TIME}

#: Columns of the clip table before those that depend on the model: a probability for each class (``p_<class>``), then,
#: where it reads action units, each unit's mean (``AU12_mean``) and its peak (``AU12_peak``). ``reason`` says why the
#: label is ``unsure``, and is empty where it is not.
CLIP_COLUMNS: Mapping[str, str] = {
    **{"source": _PLAIN, "clip_id": _PLAIN, **_TRACK, **_SPAN},
    **{"label": _PLAIN, "probability": _SHARE, "reason": _PLAIN},
    **{"frames_sampled": _PLAIN, "frames_real": _PLAIN},
    **{**_BOX, "det_score": _SCORE, "quality": _SCORE, "model": _PLAIN, "epoch": _PLAIN},
}
#: Columns of the frame table before the intensities of the model's action units, if any (``AU12_r``, 0 to 1).
FRAME_COLUMNS: Mapping[str, str] = {
    **{"source": _PLAIN, "epoch": _PLAIN, "frame": _PLAIN, "seconds": _TIME, "faces": _PLAIN},
    **{**_TRACK, **_BOX, "det_score": _SCORE, "quality": _SCORE},
}
#: Columns of the track table before the mean probability of each class and the mean intensity of each unit.
TRACK_COLUMNS: Mapping[str, str] = {
    **{"source": _PLAIN, **_TRACK, "epoch": _PLAIN, **_SPAN, "frames": _PLAIN, "clips": _PLAIN},
    **{"label": _PLAIN, "share": _SHARE},
}
CAPTION_COLUMNS: Mapping[str, str] = {
    **{"source": _PLAIN, "clip_id": _PLAIN, **_TRACK, **_SPAN},
    **{"caption": _PLAIN, "keyframes_s": _PLAIN, "model": _PLAIN, "epoch": _PLAIN},
}


class Table(Protocol):
    """What one source's events come to, row by row."""

    def columns(self) -> Mapping[str, str]:
        """Return the columns in order with the formats of their cells; final once a row was made or all was seen."""

    def rows(self, event: Event) -> Iterable[Row]:
        """Return the rows that the next event makes; none for events of other kinds."""


class _ModelColumns:
    """Classes and action units that have columns: what the opened source states, else what the first face shows."""

    def __init__(self) -> None:
        self.classes: tuple[str, ...] | None = None
        self.units: tuple[str, ...] = ()

    def note(self, classes: Iterable[str], units: Iterable[str]) -> None:
        if self.classes is None:
            self.classes, self.units = tuple(classes), tuple(units)

    def probabilities(self) -> dict[str, str]:
        return {f"p_{name}": _SHARE for name in self.classes or ()}

    def intensities(self, *suffixes: str) -> dict[str, str]:
        return {f"{name}_{suffix}": _SHARE for suffix in suffixes for name in self.units}

    def read(self, found: Mapping[str, float] | None) -> Row:
        """Return a cell for each unit that has a column: empty for a face that was not encoded."""
        return [found[name] if found else None for name in self.units]


class ClipTable:
    """One row a labelled clip and track; times in seconds, boxes as fractions of the frame.

    The columns are the same for every source of a run, those without a clip included.
    """

    def __init__(self) -> None:
        self._model = _ModelColumns()

    def columns(self) -> Mapping[str, str]:
        """Return the columns and the formats of their cells."""
        return {**CLIP_COLUMNS, **self._model.probabilities(), **self._model.intensities("mean", "peak")}

    def rows(self, event: Event) -> Iterator[Row]:
        """Yield a row for each face of a labelled clip."""
        if isinstance(event, SourceOpened):
            self._model.note(event.classes, event.action_units)
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
            ]


class FrameTable:
    """One row a face of an analysed frame; a frame without a face has one row with empty cells."""

    def __init__(self) -> None:
        self._model = _ModelColumns()

    def columns(self) -> Mapping[str, str]:
        """Return the columns and the formats of their cells."""
        return {**FRAME_COLUMNS, **self._model.intensities("r")}

    def rows(self, event: Event) -> Iterator[Row]:
        """Yield the rows of an analysed frame."""
        if isinstance(event, SourceOpened):
            self._model.note(event.classes, event.action_units)
        if not isinstance(event, FrameFaces):
            return
        self._model.note((), ())
        head: Row = [event.source_id, event.epoch, event.index, event.seconds, len(event.faces)]
        for face in event.faces:
            seen = (face.track_id, face.track, *face.box, face.score, face.quality)
            yield [*head, *seen, *self._model.read(face.action_units)]
        if not event.faces:
            yield head + [None] * (len(self.columns()) - len(head))


class CaptionTable:
    """One row a described clip; ``clip_id`` is that of the clip table, times in seconds, keyframes with blanks."""

    def columns(self) -> Mapping[str, str]:
        """Return the columns and the formats of their cells."""
        return CAPTION_COLUMNS

    def rows(self, event: Event) -> Iterator[Row]:
        """Yield the row of a caption."""
        if not (isinstance(event, Record) and isinstance(event.data, ClipCaptioned)):
            return
        data, clip = event.data, event.data.clip
        # Keyframes are counted from the epoch's zero, as the clip's own pts are, whose time is known.
        numerator, denominator = clip.time_base
        moments = [clip.start_time + (pts - clip.start_pts) * numerator / denominator for pts in data.keyframes_pts]
        yield [
            *(event.subject, data.clip_id, data.track_id, data.track, clip.start_time, clip.end_time, data.text),
            *(" ".join(f"{moment:.3f}" for moment in moments), data.model.name, clip.epoch),
        ]


@dataclass(slots=True)
class _Person:
    """What is known of one track: sums over its clips, and when it was in the picture."""

    track_id: str
    start: float = 0.0
    end: float = 0.0
    frames: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    emotions: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)

    def seen(self, seconds: float) -> None:
        self.start = min(self.start, seconds) if self.frames else seconds
        self.end = max(self.end, seconds)
        self.frames += 1

    def add(self, face: FaceReading) -> None:
        self.labels[face.label] += 1
        self.emotions.update(face.emotions)
        self.units.update(face.action_units or {})


class TrackTable:
    """One row a track: when it was in the picture, its most frequent label and that label's share of its clips.

    Behind these stand the means over its clips: of each class's probability and of each action unit's intensity;
    both are empty for a track that was never labelled.
    """

    def __init__(self) -> None:
        self._model = _ModelColumns()
        self._people: dict[tuple[int, int], _Person] = {}

    def columns(self) -> Mapping[str, str]:
        """Return the columns and the formats of their cells."""
        return {**TRACK_COLUMNS, **self._model.probabilities(), **self._model.intensities("mean")}

    def rows(self, event: Event) -> Iterator[Row]:
        """Take note of faces and clips; yield the rows when the source ends."""
        if isinstance(event, SourceOpened):
            self._model.note(event.classes, event.action_units)
        elif isinstance(event, FrameFaces):
            for face in event.faces:
                self._people.setdefault((event.epoch, face.track), _Person(face.track_id)).seen(event.seconds)
        elif isinstance(event, SourceDone):
            for (epoch, track), person in sorted(self._people.items()):
                yield self._row(event.source_id, epoch, track, person)
        elif isinstance(event.data, ClipLabelled):
            for reading in event.data.faces:
                self._model.note(reading.emotions, reading.action_units or ())
                place = event.data.clip.epoch, reading.track
                self._people.setdefault(place, _Person(reading.track_id)).add(reading)

    def _row(self, source_id: str, epoch: int, track: int, person: _Person) -> Row:
        clips = person.labels.total()
        label, count = next(iter(person.labels.most_common(1)), (None, 0))
        return [
            *(source_id, person.track_id, track, epoch, person.start, person.end, person.frames, clips),
            *(label, count / clips if clips else None),
            *(person.emotions[name] / clips if clips else None for name in self._model.classes or ()),
            *(person.units[name] / clips if clips else None for name in self._model.units),
        ]


def printed(row: Sequence[Cell], columns: Mapping[str, str]) -> list[str]:
    """Return the cells of a row as a CSV file holds them."""
    return ["" if cell is None else format(cell, spec) for cell, spec in zip(row, columns.values(), strict=True)]


def data_frame(table: Table, events: Iterable[Event]) -> pandas.DataFrame:
    """Return what a table's file holds as a DataFrame: the same columns, numbers rounded to the same digits."""
    import pandas

    # As in a table that is read back, an empty cell is NaN whatever its column holds.
    rows = [[math.nan if cell is None else cell for cell in row] for event in events for row in table.rows(event)]
    columns = table.columns()
    digits = {name: int(spec[1:-1]) for name, spec in columns.items() if spec}
    found = pandas.DataFrame(rows, columns=list(columns))
    # A column of empty cells alone is one of numbers, too.
    return found.astype(dict.fromkeys(digits, "float64")).round(digits)
