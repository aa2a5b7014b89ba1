"""What the analysis said of one source, kept until its files are made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from streamfer.files import Spill
from streamfer.pipeline.events import Event, FaceRow, FrameFaces, SourceDone, SourceOpened
from streamfer.records import ClipCaptioned, ClipLabelled, ClipSpan, FaceReading, Gap, Record
from streamfer.video.frames import VideoInfo

Cell = str | int | float | None
#: Cells by the names of their columns; what is not there is empty.
Row = Mapping[str, Any]
_Value = TypeVar("_Value")

#: Intensity from which an action unit counts as present where the model has no threshold for it.
UNIT_PRESENT = 0.5


class Findings:
    """Everything that was said of one source, each kind in order; an opening comes before all that files are made of.

    Args:
        folder: where it lies meanwhile, in files without names: sources last for hours; None keeps it in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.opened: list[SourceOpened] = []
        self.frames: list[FrameFaces] | Spill[FrameFaces] = []
        self.clips: list[Row] | Spill[Row] = []
        self.captions: list[Row] | Spill[Row] = []
        self._records: list[Record] | Spill[Any] = []
        if folder is not None:
            self.frames = Spill(_frame, _plain, folder)
            self.clips, self.captions = Spill(dict, None, folder), Spill(dict, None, folder)
            self._records = Spill(str, Record.to_json, folder)
        #: stretches of damaged pictures
        self.damage: list[Gap] = []
        self.done = SourceDone("")

    def add(self, event: Event) -> None:
        """Take the next event; an OSError where the disk is full."""
        if isinstance(event, FrameFaces):
            self.frames.append(event)
        elif isinstance(event, SourceOpened):
            self.opened.append(event)
        elif isinstance(event, SourceDone):
            self.done = event
        else:
            self._records.append(event)
            if isinstance(event.data, ClipLabelled):
                for face in event.data.faces:
                    self.clips.append(_clip_row(event, event.data, face))
            elif isinstance(event.data, ClipCaptioned):
                self.captions.append(_caption_row(event, event.data))
            elif isinstance(event.data, Gap) and event.data.cause == "decode_error":
                self.damage.append(event.data)

    def lines(self) -> Iterator[str]:
        """Yield the records in CloudEvents' JSON format: exactly what subscribers of Redis receive."""
        return (one.to_json() if isinstance(one, Record) else one for one in self._records)

    def records(self) -> Iterator[Record]:
        """Yield the records."""
        return (one if isinstance(one, Record) else Record.from_json(one) for one in self._records)

    def events(self) -> Iterator[Event]:
        """Yield all of it but the end: openings, then frames, then records."""
        return chain(self.opened, self.frames, self.records())

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Labels of the model; none withheld."""
        return self.opened[0].classes

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """Each action unit of the model with the intensity from which it counts as present."""
        known = dict(zip(self.opened[0].action_units, self.opened[0].action_thresholds, strict=False))
        return {name: known.get(name, UNIT_PRESENT) for name in self.opened[0].action_units}

    @property
    def info(self) -> VideoInfo:
        """What the file is."""
        return self.opened[0].info


def _clip_row(record: Record, data: ClipLabelled, face: FaceReading) -> dict[str, Cell]:
    """Return the row of a labelled clip and track; times in seconds, boxes as fractions of the frame."""
    return {
        **{"source": record.subject, "clip_id": record.id, "label": face.label, "reason": face.reason},
        **{"probability": face.probability, "det_score": face.det_score, "model": data.model.name},
        **{"frames_real": data.clip.frames_real, **span_cells(data.clip), **face_cells(face)},
        **{f"p_{name}": value for name, value in face.emotions.items()},
        **{f"{name}_mean": value for name, value in (face.action_units or {}).items()},
        **{f"{name}_peak": value for name, value in (face.action_units_peak or {}).items()},
    }


def _caption_row(record: Record, data: ClipCaptioned) -> dict[str, Cell]:
    """Return the row of a described clip; ``clip_id`` is that of the clip table, keyframes stand with blanks."""
    return {
        **{"source": record.subject, "clip_id": data.clip_id, "track_id": data.track_id, "track": data.track},
        **{"caption": data.text, "keyframes_s": " ".join(f"{data.clip.moment(pts):.3f}" for pts in data.keyframes_pts)},
        **{"model": data.model.name, **span_cells(data.clip)},
    }


def span_cells(clip: ClipSpan) -> dict[str, Cell]:
    """Return the cells of a clip's times, and what segments need of it."""
    numerator, denominator = clip.time_base
    return {
        **{"start_s": clip.start_time, "end_s": clip.end_time, "epoch": clip.epoch},
        **{"media_start_s": clip.media_start_time, "media_end_s": clip.media_end_time},
        **{"frames_sampled": clip.frames_sampled, "epoch_s": clip.start_pts * numerator / denominator},
    }


def face_cells(face: FaceReading | FaceRow) -> dict[str, Cell]:
    """Return the cells of who it is and where."""
    place: Sequence[tuple[str, Cell]] = [*zip(("x", "y", "width", "height"), face.box, strict=True)]
    return {"track_id": face.track_id, "track": face.track, "quality": face.quality, **dict(place)}


def _plain(frame: FrameFaces) -> tuple[Any, ...]:
    """Return what files tell of a frame."""
    faces = [
        (face.track, face.track_id, face.box, face.score, face.quality, face.action_units and dict(face.action_units))
        for face in frame.faces
    ]
    return frame.source_id, frame.epoch, frame.index, frame.seconds, faces, frame.media_seconds


def _frame(plain: tuple[Any, ...]) -> FrameFaces:
    source_id, epoch, index, seconds, faces, media_seconds = plain
    rows = tuple(FaceRow(*face) for face in faces)
    return FrameFaces(source_id, epoch, index, seconds, rows, media_seconds=media_seconds)
