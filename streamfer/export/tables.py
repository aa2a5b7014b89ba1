"""Writers of one source's results: each takes the pipeline's events and makes one file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from streamfer.export.rows import CaptionTable, ClipTable, FrameTable, Table, TrackTable, printed
from streamfer.files import WholeText
from streamfer.pipeline.events import Event
from streamfer.records import Record


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


class TableCsv(WholeText):
    """A table as a CSV file; it has its header even if it has no row."""

    def __init__(self, make: Callable[[], Table], path: Path) -> None:
        super().__init__(path)
        self._table = make()
        self._cells = csv.writer(self.file)
        self._columns: Mapping[str, str] | None = None

    def add(self, event: Event) -> None:
        """Write the rows of an event."""
        for row in self._table.rows(event):
            self._cells.writerow(printed(row, self._begin()))

    def prepare(self) -> None:
        """Bring the file to the disk."""
        self._begin()
        super().prepare()

    def _begin(self) -> Mapping[str, str]:
        """Write the header once; return the columns."""
        if self._columns is None:
            self._columns = self._table.columns()
            self._cells.writerow(self._columns)
        return self._columns


class RecordJsonl(WholeText):
    """One line a record, in CloudEvents' JSON format: exactly what subscribers of Redis receive."""

    def add(self, event: Event) -> None:
        """Write a record."""
        if isinstance(event, Record):
            self.file.write(event.to_json() + "\n")


#: What writes the files of :data:`streamfer.export.folder.FORMATS`, by the ends of their names.
WRITERS: Mapping[str, Callable[[Path], Writer]] = {
    ".clips.csv": partial(TableCsv, ClipTable),
    ".frames.csv": partial(TableCsv, FrameTable),
    ".tracks.csv": partial(TableCsv, TrackTable),
    ".captions.csv": partial(TableCsv, CaptionTable),
    ".records.jsonl": RecordJsonl,
}
