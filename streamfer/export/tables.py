"""Tables as files, and which writer makes which file of a source."""

from __future__ import annotations

import csv
import errno
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

from streamfer.errors import SourceUnreadableError
from streamfer.export.columns import TEXT, WHOLE, columns_of, dictionary
from streamfer.export.findings import Findings, Row
from streamfer.export.job import Job
from streamfer.export.rows import Table, file_rows, frame_rows, track_rows
from streamfer.export.segments import Film, segment_rows
from streamfer.files import open_text

#: What a spreadsheet takes for a formula, or for the end of a cell.
FORMULAS = tuple("=+-@") + tuple(map(chr, range(32)))
_ROWS_AT_ONCE = 4096
#: Rows of a sheet of Excel, the header counted.
_SHEET_ROWS = 1_048_576

_ROWS: Mapping[str, Callable[[Findings], Any]] = {
    "clips": attrgetter("clips"),
    "frames": frame_rows,
    "tracks": track_rows,
    "segments": segment_rows,
    "captions": attrgetter("captions"),
    "files": file_rows,
}


def table_of(name: str, found: Findings) -> Table:
    """Return the table of a name: ``clips``, ``frames``, ``tracks``, ``segments``, ``captions`` or ``files``."""
    columns = columns_of(name, found.classes, tuple(found.thresholds))
    return Table(columns, lambda: _ROWS[name](found))


def tables_of(film: Film) -> dict[str, Table]:
    """Return the tables of a source by the names that their files have."""
    job, found = film.job, film.found
    names = ("clips", "frames", "tracks", "segments", *(("captions",) if job.captions else ()))
    tables = {name: table_of(name, found) for name in names}
    if job.baseline is not None:
        from streamfer.export.baseline import standardised

        for name in ("clips", "frames"):
            tables[name] = standardised(tables[name], name, job.baseline)
    if job.settings.profile != "streamfer":
        from streamfer.export.profiles import openface_table, pyfeat_table

        del tables["frames"]
        make = openface_table if job.settings.profile == "openface" else pyfeat_table
        tables[job.settings.profile] = make(found)
    return tables


def write_csv(path: Path, table: Table, dialect: str = "plain") -> None:
    """Write CSV; in Excel's dialect behind a byte order mark, with texts that cannot be read as formulas."""
    with open_text(path) as file:
        lines, excel = csv.writer(file), dialect == "excel"
        file.write("\ufeff" if excel else "")
        lines.writerow(table.columns)
        for cells in table.printed():
            texts = zip(cells, table.columns.values(), strict=True)
            told = (f"'{cell}" if spec == TEXT and cell.startswith(FORMULAS) else cell for cell, spec in texts)
            lines.writerow(told if excel else cells)


def write_parquet(path: Path, table: Table) -> None:
    """Write Parquet with typed columns, numbers rounded as in CSV."""
    import pyarrow
    import pyarrow.parquet

    kinds = {TEXT: pyarrow.string(), WHOLE: pyarrow.int64()}
    schema = pyarrow.schema([(name, kinds.get(spec, pyarrow.float64())) for name, spec in table.columns.items()])
    rows = table.rounded()
    with pyarrow.parquet.ParquetWriter(path, schema) as file:
        while True:
            group = list(islice(rows, _ROWS_AT_ONCE))
            file.write_table(pyarrow.Table.from_pylist(group, schema))
            if len(group) < _ROWS_AT_ONCE:
                break


def write_xlsx(path: Path, tables: Mapping[str, Table]) -> None:
    """Write a workbook, row by row and without the time of writing; the dictionary is its last sheet.

    A table has further sheets where Excel has no room left; texts are texts.
    """
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import XlsxFileError

    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "use_zip64": True}
    book: Any = Workbook(str(path), options)
    book.set_properties({"created": datetime(2000, 1, 1)})
    words = ("table", "column", "type", "meaning")
    told: list[Row] = [dict(zip(words, row, strict=True)) for row in dictionary()]
    for name, table in {**tables, "dictionary": Table(dict.fromkeys(words, TEXT), lambda: told)}.items():
        rows, sheets, more = table.rounded(), 0, True
        while more:
            sheets += 1
            sheet = book.add_worksheet(name if sheets == 1 else f"{name} {sheets}")
            sheet.freeze_panes(1, 0)
            sheet.write_row(0, 0, list(table.columns))
            at = 0
            for at, row in enumerate(islice(rows, _SHEET_ROWS - 1), 1):
                for place, cell in enumerate(row.values()):
                    if cell is not None:
                        (sheet.write_string if isinstance(cell, str) else sheet.write_number)(at, place, cell)
            more = at == _SHEET_ROWS - 1
    try:
        book.close()
    except XlsxFileError as error:
        raise OSError(errno.EIO, str(error)) from error


def check(job: Job) -> None:
    """Refuse pictures of what can be read but once (SourceUnreadableError), before it is read."""
    pictures = any(end.startswith((".html", ".overlay.")) for end in job.files())
    if pictures and Path(job.spec.url).is_fifo():
        raise SourceUnreadableError(
            f"{job.spec.location}: a pipe is read but once, and pictures of it need it twice; write it to a file first"
        )


def write(end: str, path: Path, film: Film) -> int:
    """Write the file of a source whose name has this end; return how many pictures may show a face despite the blur.

    Raises:
        OSError: the disk is full, or refuses.
        SourceError: pictures are wanted, and the source cannot be read any more.
    """
    if end == ".records.jsonl":
        with open_text(path) as file:
            file.writelines(f"{line}\n" for line in film.found.lines())
        return 0
    if end == ".xlsx":
        write_xlsx(path, tables_of(film))
        return 0
    name, _, kind = end.removeprefix(".").partition(".")
    if kind == "csv":
        write_csv(path, tables_of(film)[name], film.job.settings.dialect)
    elif kind == "parquet":
        write_parquet(path, tables_of(film)[name])
    elif name == "overlay":
        from streamfer.export.overlay import draw_overlay

        return draw_overlay(path, film)
    else:
        _maker(end)(path, film)
    return 0


def _maker(end: str) -> Callable[[Path, Film], None]:
    if end == ".html":
        from streamfer.export.report import write_report

        return write_report
    from streamfer.export import bids, tiers

    makers: Mapping[str, Callable[[Path, Film], None]] = {
        ".srt": tiers.write_subtitles,
        ".vtt": tiers.write_subtitles,
        ".eaf": tiers.write_elan,
        ".TextGrid": tiers.write_textgrid,
        ".boris": tiers.write_boris,
        "_events.tsv": bids.write_events,
        "_events.json": bids.write_events_json,
        "_recording-faces_physio.tsv.gz": bids.write_recording,
        "_recording-faces_physio.json": bids.write_recording_json,
    }
    return makers[end]
