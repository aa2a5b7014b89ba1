"""Writers of one source's results: each takes the pipeline's events and makes one file."""

from __future__ import annotations

import csv
import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from streamfer.errors import InternalError, SourceUnreadableError
from streamfer.export.columns import TEXT, WHOLE, dictionary
from streamfer.export.job import Job
from streamfer.export.rows import CaptionTable, Cell, ClipTable, FrameTable, Row, Table, TrackTable, printed
from streamfer.export.segments import SegmentTable
from streamfer.files import WholeFile, WholeText
from streamfer.pipeline.events import Event
from streamfer.records import Record

#: What a spreadsheet takes for a formula, or for the end of a cell.
FORMULAS = tuple("=+-@") + tuple(map(chr, range(32)))
_ROWS_AT_ONCE = 4096
#: Rows of a sheet of Excel, the header counted.
_SHEET_ROWS = 1_048_576


class Writer(Protocol):
    """Writes one file from the events of one source."""

    path: Path

    def add(self, event: Event) -> None:
        """Take the next event; those of other kinds are ignored."""

    def prepare(self) -> None:
        """Bring everything to the disk; nothing is added afterwards."""

    def commit(self) -> None:
        """Make the file appear, complete, under its name."""

    def discard(self) -> None:
        """Leave nothing behind."""


class Rows(Protocol):
    """Takes the rows of one table; its columns are known with the first of them, or at the end."""

    def write(self, columns: Mapping[str, str], rows: Sequence[Row]) -> None:
        """Write rows; the header comes with the first call."""

    def close(self) -> None:
        """Write what is left; may be called twice."""


class CsvRows:
    """Rows as CSV; in Excel's dialect behind a byte order mark, with texts that cannot be read as formulas."""

    def __init__(self, path: Path, dialect: str = "plain") -> None:
        # Names of files that are no UTF-8 stand in the tables as \udc.. escapes instead of breaking them.
        self.file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._cells = csv.writer(self.file)
        self._excel = dialect == "excel"
        self._begun = False

    def write(self, columns: Mapping[str, str], rows: Sequence[Row]) -> None:
        if not self._begun:
            self._begun = True
            self.file.write("\ufeff" if self._excel else "")
            self._cells.writerow(columns)
        for row in rows:
            cells = printed(row, columns)
            if self._excel:
                texts = zip(cells, columns.values(), strict=True)
                cells = [f"'{cell}" if spec == TEXT and cell.startswith(FORMULAS) else cell for cell, spec in texts]
            self._cells.writerow(cells)

    def close(self) -> None:
        self.file.close()


class ParquetRows:
    """Rows as Parquet with typed columns, numbers rounded as in CSV."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._waiting: list[Row] = []
        self._columns: Mapping[str, str] = {}

    def write(self, columns: Mapping[str, str], rows: Sequence[Row]) -> None:
        """Take rows; a group of them is written at once."""
        self._columns = columns
        self._waiting += (rounded(row, columns) for row in rows)
        if len(self._waiting) >= _ROWS_AT_ONCE:
            self._write()

    def close(self) -> None:
        if self._columns:
            self._write()
            self._file.close()
            self._columns = {}

    def _write(self) -> None:
        import pyarrow
        import pyarrow.parquet

        kinds = {TEXT: pyarrow.string(), WHOLE: pyarrow.int64()}
        schema = pyarrow.schema([(name, kinds.get(spec, pyarrow.float64())) for name, spec in self._columns.items()])
        self._file = self._file or pyarrow.parquet.ParquetWriter(self._path, schema)
        cells = zip(*self._waiting, strict=True) if self._waiting else [()] * len(schema)
        arrays = [pyarrow.array(column, field.type) for column, field in zip(cells, schema, strict=True)]
        self._file.write_table(pyarrow.table(arrays, schema))
        self._waiting = []


class Book:
    """An Excel workbook, written as rows come, without the time of writing; the dictionary is its last sheet."""

    def __init__(self, path: Path) -> None:
        from xlsxwriter import Workbook

        options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "use_zip64": True}
        self._book: Any = Workbook(str(path), options)
        self._book.set_properties({"created": datetime(2000, 1, 1)})

    def sheet(self, name: str) -> SheetRows:
        return SheetRows(self, name)

    def add(self, name: str) -> Any:
        """Return a sheet of the library, its first row frozen."""
        sheet = self._book.add_worksheet(name)
        sheet.freeze_panes(1, 0)
        return sheet

    def close(self) -> None:
        """Write the file; called for each sheet, which counts once."""
        from xlsxwriter.exceptions import XlsxFileError

        if self._book.fileclosed:
            return
        self.sheet("dictionary").write(
            dict.fromkeys(("table", "column", "type", "meaning"), TEXT), [[*row] for row in dictionary()]
        )
        try:
            self._book.close()
        except XlsxFileError as error:
            self._book.fileclosed = True
            raise OSError(errno.EIO, str(error)) from error


class SheetRows:
    """Rows as a sheet of a workbook, and further ones where Excel has no room left; texts are texts."""

    def __init__(self, book: Book, name: str) -> None:
        self._book = book
        self._name = name
        self._sheet = book.add(name)
        self._sheets = 1
        self._row = 0

    def write(self, columns: Mapping[str, str], rows: Sequence[Row]) -> None:
        for row in ([list(columns)] if self._row == 0 else []) + [rounded(row, columns) for row in rows]:
            if self._row == _SHEET_ROWS:
                self._sheets, self._row = self._sheets + 1, 0
                self._sheet = self._book.add(f"{self._name} {self._sheets}")
                self.write(columns, [])
            for place, cell in enumerate(row):
                if isinstance(cell, str):
                    self._sheet.write_string(self._row, place, cell)
                elif cell is not None:
                    self._sheet.write_number(self._row, place, cell)
            self._row += 1

    def close(self) -> None:
        self._book.close()


def rounded(row: Sequence[Cell], columns: Mapping[str, str]) -> Row:
    """Return the cells of a row as numbers of as many digits as a CSV file holds; texts are valid Unicode."""
    return [
        cell
        if cell is None or spec == WHOLE
        else str(cell).encode(errors="backslashreplace").decode()
        if spec == TEXT
        else round(float(cell), int(spec[1:-1]))
        for cell, spec in zip(row, columns.values(), strict=True)
    ]


class TableFile(WholeFile):
    """Tables in one file, each with what takes its rows; each has its header even if it has no row.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, path: Path, tables: Callable[[Path], Sequence[tuple[Table, Rows]]]) -> None:
        super().__init__(path, path.suffix)
        self.tables: Sequence[tuple[Table, Rows]] = ()
        with self.writing():
            self.tables = tables(self.part)

    def add(self, event: Event) -> None:
        for table, rows in self.tables:
            made = iter(table.rows(event))
            while found := list(islice(made, _ROWS_AT_ONCE)):
                rows.write(table.columns(), found)

    def prepare(self) -> None:
        with self.writing():
            for table, rows in self.tables:
                rows.write(table.columns(), [])
            for _, rows in self.tables:
                rows.close()
        super().prepare()

    def discard(self) -> None:
        # Closing writes what is still in memory, which fails once more on a full disk.
        for _, rows in self.tables:
            with suppress(OSError):
                rows.close()
        super().discard()


class RecordJsonl(WholeText):
    """One line a record, in CloudEvents' JSON format: exactly what subscribers of Redis receive."""

    def add(self, event: Event) -> None:
        if isinstance(event, Record):
            self.file.write(event.to_json() + "\n")


_TABLES: Mapping[str, Callable[[], Table]] = {
    "clips": ClipTable,
    "frames": FrameTable,
    "tracks": TrackTable,
    "segments": SegmentTable,
    "captions": CaptionTable,
}


def tables_of(job: Job) -> dict[str, Callable[[], Table]]:
    """Return the makers of a source's tables by the names that their files have."""
    found = {name: make for name, make in _TABLES.items() if name != "captions" or job.captions}
    if job.baseline is not None:
        from streamfer.export.baseline import Standardised

        for name in ("clips", "frames"):
            found[name] = partial(Standardised, found[name](), name, job.baseline)
    if job.settings.profile != "streamfer":
        from streamfer.export.profiles import OpenFaceTable, PyFeatTable

        del found["frames"]
        found[job.settings.profile] = OpenFaceTable if job.settings.profile == "openface" else PyFeatTable
    return found


def writer_of(suffix: str, path: Path, job: Job) -> Writer:
    """Return what writes the file of a source whose name ends with ``suffix``."""
    if suffix == ".records.jsonl":
        return RecordJsonl(path)
    tables = tables_of(job)
    if suffix == ".xlsx":

        def sheets(part: Path) -> list[tuple[Table, Rows]]:
            book = Book(part)
            return [(make(), book.sheet(name)) for name, make in tables.items()]

        return TableFile(path, sheets)
    name, _, kind = suffix.removeprefix(".").partition(".")
    if kind == "csv":
        return TableFile(path, lambda part: [(tables[name](), CsvRows(part, job.settings.dialect))])
    if kind == "parquet":
        return TableFile(path, lambda part: [(tables[name](), ParquetRows(part))])
    return _picture_or_tiers(suffix, path, job)


def _picture_or_tiers(suffix: str, path: Path, job: Job) -> Writer:
    if suffix.startswith((".html", ".overlay.")) and job.spec is not None and Path(job.spec.url).is_fifo():
        raise SourceUnreadableError(
            f"{job.spec.location}: a pipe is read but once, and pictures of it need it twice; write it to a file first"
        )
    if suffix == ".html":
        from streamfer.export.report import Report

        return Report(path, job)
    from streamfer.export import bids, tiers

    makers: Mapping[str, Callable[[Path, Job], Writer]] = {
        ".srt": tiers.Subtitles,
        ".vtt": tiers.WebVtt,
        ".eaf": tiers.Elan,
        ".TextGrid": tiers.TextGridFile,
        ".boris": tiers.Boris,
        "_events.tsv": bids.EventsTsv,
        "_events.json": bids.EventsJson,
        "_recording-faces_physio.tsv.gz": bids.Recording,
        "_recording-faces_physio.json": bids.Recording,
    }
    if suffix in makers:
        return makers[suffix](path, job)
    if suffix.startswith(".overlay.") and job.spec is not None:
        from streamfer.export.overlay import OverlayWriter
        from streamfer.video import open_source

        return OverlayWriter(path, open_source(job.spec), blur=job.settings.blurred)
    raise InternalError(f"nobody writes {suffix}")
