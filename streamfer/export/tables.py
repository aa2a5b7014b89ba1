"""Writers of one source's results: each takes the pipeline's events and makes one file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from streamfer.errors import ConfigError
from streamfer.files import WholeText
from streamfer.pipeline.events import Event, FrameFaces, SourceOpened
from streamfer.records import ClipLabelled, Record

#: Columns of the clip table before those that depend on the model: a probability for each class (``p_<class>``),
#: then, where it reads action units, each unit's mean (``AU12_mean``) and its peak (``AU12_peak``).
CLIP_COLUMNS = (
    "source",
    "clip_id",
    "track_id",
    "track",
    "start_s",
    "end_s",
    "label",
    "probability",
    "frames_sampled",
    "frames_real",
    "x",
    "y",
    "width",
    "height",
    "det_score",
    "quality",
    "model",
    "epoch",
)
#: Columns of the frame table before the intensities of the model's action units, if any (``AU12_r``, 0 to 1).
FRAME_COLUMNS = (
    "source",
    "epoch",
    "frame",
    "seconds",
    "faces",
    "track_id",
    "track",
    "x",
    "y",
    "width",
    "height",
    "det_score",
    "quality",
)


class Writer(Protocol):
    """Writes one file from the events of one source."""

    def add(self, event: Event) -> None:
        """Take the next event; those of other kinds are ignored."""

    def prepare(self) -> None:
        """Bring everything to the disk; nothing is added afterwards."""

    def commit(self) -> None:
        """Make the file appear, complete, under its name."""

    def discard(self) -> None:
        """Leave nothing behind."""


MakeWriter = Callable[[Path], Writer]


class ClipCsv(WholeText):
    """One row a labelled clip and track; times in seconds, boxes as fractions of the frame.

    The columns are the same for every file of a run, those without a clip included.
    """

    suffix = ".clips.csv"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rows = csv.writer(self.file)
        self._units: tuple[str, ...] | None = None

    def add(self, event: Event) -> None:
        """Write the header when the source opens, and a row for a labelled clip."""
        if isinstance(event, SourceOpened):
            self._begin(event.classes, event.action_units)
        if not (isinstance(event, Record) and isinstance(event.data, ClipLabelled)):
            return
        clip, model = event.data.clip, event.data.model
        for face in event.data.faces:
            units = self._begin(tuple(face.emotions), tuple(face.action_units or ()))
            self._rows.writerow(
                [
                    *(event.subject, event.id, face.track_id, face.track),
                    *(f"{clip.start_time:.3f}", f"{clip.end_time:.3f}"),
                    *(face.top, f"{face.emotions[face.top]:.6f}"),
                    *(clip.frames_sampled, clip.frames_real),
                    *(f"{value:.6f}" for value in face.box),
                    *(f"{face.det_score:.4f}", f"{face.quality:.4f}", model.name, clip.epoch),
                    *(f"{value:.6f}" for value in face.emotions.values()),
                    *_intensities(face.action_units, units),
                    *_intensities(face.action_units_peak, units),
                ]
            )

    def _begin(self, classes: tuple[str, ...], units: tuple[str, ...]) -> tuple[str, ...]:
        """Write the header once; return the action units that have columns."""
        if self._units is None:
            self._units = units
            of_units = [f"{name}_{what}" for what in ("mean", "peak") for name in units]
            self._rows.writerow([*CLIP_COLUMNS, *(f"p_{name}" for name in classes), *of_units])
        return self._units


class FrameCsv(WholeText):
    """One row a face of an analysed frame; a frame without a face has one row with empty columns."""

    suffix = ".frames.csv"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rows = csv.writer(self.file)
        self._units: tuple[str, ...] | None = None

    def add(self, event: Event) -> None:
        """Write the header when the source opens, and the rows of an analysed frame."""
        if isinstance(event, SourceOpened):
            self._begin(event.action_units)
        if not isinstance(event, FrameFaces):
            return
        units = self._begin(())
        head = (event.source_id, event.epoch, event.index, f"{event.seconds:.3f}", len(event.faces))
        for face in event.faces:
            numbers = (*(f"{value:.6f}" for value in face.box), f"{face.score:.4f}", f"{face.quality:.4f}")
            self._rows.writerow([*head, face.track_id, face.track, *numbers, *_intensities(face.action_units, units)])
        if not event.faces:
            self._rows.writerow([*head, *[""] * (len(FRAME_COLUMNS) + len(units) - len(head))])

    def prepare(self) -> None:
        """Bring the file to the disk, with its header even if nothing was analysed."""
        self._begin(())
        super().prepare()

    def _begin(self, units: tuple[str, ...]) -> tuple[str, ...]:
        """Write the header once; return the action units that have columns."""
        if self._units is None:
            self._units = units
            self._rows.writerow([*FRAME_COLUMNS, *(f"{name}_r" for name in units)])
        return self._units


def _intensities(found: Mapping[str, float] | None, units: tuple[str, ...]) -> list[str]:
    """Return a cell for each unit that has a column: empty for a face that was not encoded."""
    return [f"{found[name]:.6f}" if found else "" for name in units]


class RecordJsonl(WholeText):
    """One line a record, in CloudEvents' JSON format: exactly what subscribers of Redis receive."""

    suffix = ".records.jsonl"

    def add(self, event: Event) -> None:
        """Write a record."""
        if isinstance(event, Record):
            self.file.write(event.to_json() + "\n")


#: Format name to the files it writes: suffix of the file, and the writer.
FORMATS: Mapping[str, tuple[tuple[str, MakeWriter], ...]] = {
    "csv": ((ClipCsv.suffix, ClipCsv), (FrameCsv.suffix, FrameCsv)),
    "jsonl": ((RecordJsonl.suffix, RecordJsonl),),
}


def check_formats(names: str) -> tuple[str, ...]:
    """Split a comma-separated list of formats.

    Raises:
        ConfigError: a format is unknown.
    """
    chosen = tuple(dict.fromkeys(name.strip().lower() for name in names.split(",") if name.strip()))
    for name in chosen:
        if name not in FORMATS:
            raise ConfigError(f"format {name!r}: unknown; choose from {', '.join(FORMATS)}")
    if not chosen:
        raise ConfigError(f"no output format; choose from {', '.join(FORMATS)}")
    return chosen
