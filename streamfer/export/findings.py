"""What the analysis said of one source, kept until its files are made of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from streamfer.files import Spill
from streamfer.pipeline.events import Event, FaceRow, FrameFaces, SourceDone, SourceOpened
from streamfer.records import ClipLabelled, FaceReading, Gap, Record

#: Intensity from which an action unit counts as present where the model has no threshold for it.
UNIT_PRESENT = 0.5
_Document = TypeVar("_Document")


class Findings:
    """Everything that was said of one source, each kind in order.

    Args:
        folder: where frames and records lie meanwhile, in files without names; None keeps them in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.opened: list[SourceOpened] = []
        self.frames: list[FrameFaces] | Spill[FrameFaces] = []
        self.records: list[Record] | Spill[Record] = []
        if folder is not None:
            self.frames = Spill(_frame, _plain, folder)
            self.records = Spill(Record.from_fields, Record.to_fields, folder)
        self.done = SourceDone("")

    def add(self, event: Event) -> None:
        """Take the next event; an OSError where the disk is full."""
        if isinstance(event, FrameFaces):
            self.frames.append(event)
        elif isinstance(event, Record):
            self.records.append(event)
        elif isinstance(event, SourceOpened):
            self.opened.append(event)
        else:
            self.done = event

    def events(self) -> Iterator[Event]:
        """Yield all of it but the end: openings, then frames, then records."""
        return chain(self.opened, self.frames, self.records)

    def said(self, kind: type[_Document]) -> Iterator[tuple[Record, _Document]]:
        """Yield the records that hold a document of this kind, with it."""
        for record in self.records:
            if isinstance(record.data, kind):
                yield record, record.data

    def readings(self) -> Iterator[tuple[ClipLabelled, FaceReading]]:
        """Yield the faces of labelled clips."""
        return ((clip, face) for _, clip in self.said(ClipLabelled) for face in clip.faces)

    def damage(self) -> list[Gap]:
        """Return the stretches of damaged pictures."""
        return [gap for _, gap in self.said(Gap) if gap.cause == "decode_error"]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Labels of the model: as it states when the source is opened, else as the first face shows; none withheld."""
        if self.opened:
            return self.opened[0].classes
        return next((tuple(face.emotions) for _, face in self.readings()), ())

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """Each action unit of the model with the intensity from which it counts as present."""
        if not self.opened:
            return dict.fromkeys(next((face.action_units or () for _, face in self.readings()), ()), UNIT_PRESENT)
        known = dict(zip(self.opened[0].action_units, self.opened[0].action_thresholds, strict=False))
        return {name: known.get(name, UNIT_PRESENT) for name in self.opened[0].action_units}

    @property
    def info(self) -> Any:
        """What the file is; None before it is open."""
        return self.opened[0].info if self.opened else None


def _plain(frame: FrameFaces) -> tuple[Any, ...]:
    """Return what files tell of a frame."""
    faces = [
        (face.track, face.track_id, face.box, face.score, face.quality, face.action_units and dict(face.action_units))
        for face in frame.faces
    ]
    return frame.source_id, frame.epoch, frame.index, frame.seconds, faces, frame.media_seconds


def _frame(plain: tuple[Any, ...]) -> FrameFaces:
    *head, faces, media_seconds = plain
    return FrameFaces(*head, tuple(FaceRow(*face) for face in faces), media_seconds=media_seconds)
