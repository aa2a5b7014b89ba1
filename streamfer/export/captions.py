"""The table of a source's captions."""

from __future__ import annotations

import csv
from pathlib import Path

from streamfer.files import WholeText
from streamfer.pipeline.events import Event
from streamfer.records import ClipCaptioned, Record

CAPTION_COLUMNS = (
    "source",
    "clip_id",
    "track_id",
    "track",
    "start_s",
    "end_s",
    "caption",
    "keyframes_s",
    "model",
    "epoch",
)


class CaptionCsv(WholeText):
    """One row a described clip; ``clip_id`` is that of the clip table, times in seconds, keyframes with blanks."""

    suffix = ".captions.csv"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rows = csv.writer(self.file)
        self._rows.writerow(CAPTION_COLUMNS)

    def add(self, event: Event) -> None:
        """Write a row for a caption."""
        if not (isinstance(event, Record) and isinstance(event.data, ClipCaptioned)):
            return
        data, clip = event.data, event.data.clip
        # Keyframes are counted from the epoch's zero, as the clip's own pts are, whose time is known.
        numerator, denominator = clip.time_base
        moments = [clip.start_time + (pts - clip.start_pts) * numerator / denominator for pts in data.keyframes_pts]
        self._rows.writerow(
            [
                *(event.subject, data.clip_id, data.track_id, data.track),
                *(f"{clip.start_time:.3f}", f"{clip.end_time:.3f}", data.text),
                *(" ".join(f"{moment:.3f}" for moment in moments), data.model.name, clip.epoch),
            ]
        )
