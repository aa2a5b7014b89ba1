"""The tables of a study: what all files of an output folder hold, in one table each, and a row a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from streamfer.errors import OutputError
from streamfer.export.columns import FORMAT, SCORE, SHARE, TEXT, WHOLE
from streamfer.export.findings import Cell
from streamfer.export.folder import MANIFEST
from streamfer.export.rows import Table
from streamfer.export.tables import FORMULAS, write_csv, write_parquet, write_xlsx
from streamfer.files import Spill, WholeFile

_TABLES = ("clips", "tracks", "segments", "captions")
#: One file is its own study.
_FEWEST = 2


def write_study(output: Path, formats: Sequence[str], dialect: str, failed: Mapping[str, str]) -> list[Path]:
    """Write ``study.clips``, ``.tracks``, ``.segments``, ``.captions`` and ``.files`` for several files.

    Args:
        output: folder of the results; those of earlier runs count.
        formats: ``csv``, ``parquet`` and ``xlsx`` make tables, others none.
        failed: names of sources that could not be done, and why; they have a row among the files.

    Raises:
        OutputError: a table cannot be written.
    """
    manifests = sorted(output.rglob(f"*{MANIFEST}"))
    kinds = [kind for kind in ("csv", "parquet", "xlsx") if kind in formats]
    if not manifests or not kinds:
        return []
    tables = {name: _Gathered() for name in (*_TABLES, "files")}
    try:
        for row in _files(manifests, failed):
            tables["files"].add(row, [[*row.values()]])
        if len(tables["files"].rows) < _FEWEST:
            return []
        for path in manifests:
            for name, lines in _lines(path.with_name(path.name.removesuffix(MANIFEST))):
                tables[name].add(next(lines, ()), lines)
    except OSError as error:
        raise OutputError(f"{output}: the tables of all files cannot be made ({error}); check the disk") from error
    found = {name: table.table() for name, table in tables.items() if table.columns}
    return [path for kind in kinds for path in _write(output, kind, dialect, found)]


class _Gathered:
    """The rows of one table of all files, on the disk: a study has more of them than memory may hold."""

    def __init__(self) -> None:
        self.columns: dict[str, str] = {}
        self.rows: Spill[tuple[int, list[Cell]]] = Spill(tuple)
        self.headers: list[tuple[str, ...]] = []

    def add(self, names: Iterable[Any], lines: Iterable[Sequence[Cell]]) -> None:
        """Take a file's rows, with the names of their columns."""
        header = tuple(map(str, names))
        self.columns |= {name: _format(name) for name in header}
        if header not in self.headers:
            self.headers.append(header)
        which = self.headers.index(header)
        for line in lines:
            self.rows.append((which, list(line)))

    def table(self) -> Table:
        """Return it as the table that is written; cells that a file lacks are empty."""
        return Table(self.columns, lambda: (dict(zip(self.headers[w], line, strict=False)) for w, line in self.rows))


def _write(output: Path, kind: str, dialect: str, tables: Mapping[str, Table]) -> list[Path]:
    """Write the tables in one format, all of them or none, and return their paths."""
    paths = [output / "study.xlsx"] if kind == "xlsx" else [output / f"study.{name}.{kind}" for name in tables]
    opened = [WholeFile(path, path.suffix) for path in paths]
    try:
        for one, table in zip(opened, tables.values(), strict=False):
            with one.writing():
                if kind == "xlsx":
                    write_xlsx(one.part, tables)
                elif kind == "csv":
                    write_csv(one.part, table, dialect)
                else:
                    write_parquet(one.part, table)
        for one in opened:
            one.commit()
    finally:
        for one in opened:
            one.discard()
    return paths


def _files(manifests: Sequence[Path], failed: Mapping[str, str]) -> Iterator[dict[str, Cell]]:
    """Yield a row a file: what its manifest says, then those that have none."""
    known = set()
    for path in manifests:
        row = json.loads(path.read_text(encoding="utf-8")).get("summary", {})
        known.add(row.get("source"))
        yield row
    for name, why in sorted(failed.items()):
        if name not in known:
            yield {"source": name, "status": "failed", "note": why}


def _format(name: str) -> str:
    return FORMAT.get(name, SCORE if name.endswith("_z") else SHARE)


def _lines(base: Path) -> Iterator[tuple[str, Iterator[Sequence[Cell]]]]:
    """Yield each table of a file: the names of its columns, then its rows, from whichever format it has."""
    book: Any = None
    for name in _TABLES:
        path = base.with_name(f"{base.name}.{name}.csv")
        if path.is_file():
            yield name, _csv(path)
        elif (path := path.with_suffix(".parquet")).is_file():
            yield name, _parquet(path)
        elif (path := base.with_name(f"{base.name}.xlsx")).is_file():
            import openpyxl

            # What takes long of a workbook is to open it.
            book = book or openpyxl.load_workbook(path, read_only=True)
            sheets = [sheet for sheet in book.worksheets if sheet.title.split()[0] == name]
            parts = [sheet.iter_rows(min_row=1 + (number > 0), values_only=True) for number, sheet in enumerate(sheets)]
            yield name, chain.from_iterable(parts)
    if book is not None:
        book.close()


def _csv(path: Path) -> Iterator[Sequence[Cell]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        names = next(lines, [])
        yield names
        formats = [_format(name) for name in names]
        for line in lines:
            yield [_cell(text, spec) for text, spec in zip(line, formats, strict=True)]


def _parquet(path: Path) -> Iterator[Sequence[Cell]]:
    import pyarrow.parquet

    stored = pyarrow.parquet.ParquetFile(path)
    yield stored.schema_arrow.names
    for batch in stored.iter_batches():
        yield from zip(*batch.to_pydict().values(), strict=True)


def _cell(text: str, spec: str) -> Cell:
    if spec == TEXT:
        return (text[1:] if text.startswith("'") and text[1:].startswith(FORMULAS) else text) or None
    return None if not text else int(text) if spec == WHOLE else float(text)
