"""The tables of a study: what all files of an output folder hold, in one table each, and a row a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from streamfer.export.columns import FILE_COLUMNS, FORMAT, SCORE, SHARE, TEXT, WHOLE
from streamfer.export.folder import MANIFEST
from streamfer.export.rows import Cell
from streamfer.export.tables import FORMULAS, Book, CsvRows, ParquetRows, Rows
from streamfer.files import WholeFile

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
    if not manifests or not kinds or sum(1 for _ in islice(_files(manifests, failed), _FEWEST)) < _FEWEST:
        return []
    bases = [path.with_name(path.name.removesuffix(MANIFEST)) for path in manifests]
    tables = {name: columns for name in _TABLES if (columns := _union(next(_lines(base, name), ()) for base in bases))}
    tables["files"] = _union([*FILE_COLUMNS, *row] for row in _files(manifests, failed))
    written: list[Path] = []
    for kind in kinds:
        book_path = output / "study.xlsx"
        targets = {name: output / f"study.{name}.{kind}" for name in tables} if kind != "xlsx" else {"": book_path}
        opened = [WholeFile(path, path.suffix) for path in targets.values()]
        book = Book(opened[0].part) if kind == "xlsx" else None
        try:
            for number, (name, columns) in enumerate(tables.items()):
                part = opened[0 if book else number].part
                rows: Rows = (
                    book.sheet(name) if book else CsvRows(part, dialect) if kind == "csv" else ParquetRows(part)
                )
                rows.write(columns, [])
                # A row at a time: a study has more of them than memory may hold.
                for cells in [_files(manifests, failed)] if name == "files" else (_rows(base, name) for base in bases):
                    for row in cells:
                        rows.write(columns, [[row.get(column) for column in columns]])
                if book is None:
                    rows.close()
            if book is not None:
                book.close()
            for target in opened:
                target.commit()
        finally:
            for target in opened:
                target.discard()
        written += targets.values()
    return written


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


def _union(headers: Any) -> dict[str, str]:
    """Return all columns with their formats, in the order of their first appearance."""
    return {name: _format(name) for name in dict.fromkeys(name for header in headers for name in header)}


def _format(name: str) -> str:
    return FORMAT.get(name, SCORE if name.endswith("_z") else SHARE)


def _rows(base: Path, table: str) -> Iterator[dict[str, Cell]]:
    lines = _lines(base, table)
    names = next(lines, ())
    return ({str(name): cell for name, cell in zip(names, line, strict=False)} for line in lines)


def _lines(base: Path, table: str) -> Iterator[Sequence[Cell]]:
    """Yield the names of the columns of a file's table, then its rows, from whichever format it has."""
    path = base.with_name(f"{base.name}.{table}.csv")
    if path.is_file():
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            names = next(lines, [])
            yield names
            for line in lines:
                yield [_cell(text, _format(name)) for name, text in zip(names, line, strict=True)]
    elif (path := path.with_suffix(".parquet")).is_file():
        import pyarrow.parquet

        stored = pyarrow.parquet.ParquetFile(path)
        yield stored.schema_arrow.names
        for batch in stored.iter_batches():
            yield from zip(*batch.to_pydict().values(), strict=True)
    elif (path := base.with_name(f"{base.name}.xlsx")).is_file():
        import openpyxl

        book = openpyxl.load_workbook(path, read_only=True)
        for number, sheet in enumerate(one for one in book.worksheets if one.title.split()[0] == table):
            yield from sheet.iter_rows(min_row=1 + (number > 0), values_only=True)
        book.close()


def _cell(text: str, spec: str) -> Cell:
    if spec == TEXT:
        return (text[1:] if text.startswith("'") and text[1:].startswith(FORMULAS) else text) or None
    return None if not text else int(text) if spec == WHOLE else float(text)
