"""Label files read line by line, so that a message can name file, line and field."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from streamfer.errors import ConfigError, RecordError
from streamfer_train.captions.files import Entry, read_text
from streamfer_train.captions.labels import FaceLabels


def read_lines(path: Path, expects: str) -> Iterator[tuple[str, str]]:
    """Yield (line, place) of a text file, without empty lines.

    Raises:
        ConfigError: the file is absent; ``expects`` says what should be there.
        RecordError: it is no text.
    """
    for number, line in enumerate(read_text(path, f"expected is {expects}").splitlines(), start=1):
        if line.strip():
            yield line.strip(), f"{path}, line {number}"


def read_table(path: Path, expects: str, required: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Yield the rows of a file of comma-separated values whose first line names the columns.

    Raises:
        ConfigError: the file is absent.
        RecordError: a required column is missing, or a line has too few or too many fields.
    """
    lines = list(read_lines(path, expects))
    if not lines:
        raise RecordError(f"{path}: is empty; fetch it again")
    header = [name.strip().strip("'\"") for name in next(csv.reader([lines[0][0]]))]
    missing = [name for name in required if name not in header]
    if missing:
        raise RecordError(f"{lines[0][1]}: column {missing[0]} is missing; expected is {expects}")
    for line, place in lines[1:]:
        fields = [field.strip() for field in next(csv.reader([line]))]
        if len(fields) != len(header):
            raise RecordError(f"{place}: has {len(fields)} fields for {len(header)} columns; correct it")
        yield Entry(dict(zip(header, fields, strict=True)), place)


def occurrence(row: Entry, columns: Mapping[int, str], *uncoded: int) -> FaceLabels:
    """Return the labels of a row: 1 in a unit's column is presence, 0 absence, ``uncoded`` what nobody looked for."""
    codes = {unit: row.integer(name) for unit, name in columns.items()}
    for unit, code in codes.items():
        if code not in (0, 1, *uncoded):
            known = " or ".join(map(str, uncoded))
            raise RecordError(f"{row.place}: field {columns[unit]} is {code}, not 0, 1 or {known}; correct it")
    coded = frozenset(unit for unit, code in codes.items() if code not in uncoded)
    return FaceLabels(frozenset(unit for unit in coded if codes[unit]), (), {}, coded)


def need_folder(path: Path, expects: str) -> Path:
    """Return a folder that must be there; a ConfigError says what the data set ``expects`` on disk."""
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; expected is {expects}")
    return path
