"""Label files read line by line, so that a message can name file, line and field."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamfer.errors import ConfigError, RecordError


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: the fields by column name, and file and line for messages."""

    fields: dict[str, str]
    place: str

    def integer(self, column: str) -> int:
        """Return a field as a whole number."""
        text = self.text(column)
        # Whole numbers first: as floats, long ones would lose digits.
        with contextlib.suppress(ValueError):
            return int(text)
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not number.is_integer():
            raise RecordError(f"{self.place}: field {column} is {text!r}, not a whole number; correct it")
        return int(number)

    def text(self, column: str) -> str:
        """Return a field that must not be empty."""
        value = self.fields.get(column, "")
        if not value:
            raise RecordError(f"{self.place}: field {column} is missing; every line needs it")
        return value


def read_lines(path: Path, expects: str) -> Iterator[tuple[str, str]]:
    """Yield (line, place) of a text file, without empty lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: is no UTF-8 text; fetch it again") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected is {expects}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield line.strip(), f"{path}, line {number}"


def read_table(path: Path, expects: str, required: tuple[str, ...] = ()) -> Iterator[Row]:
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
        yield Row(dict(zip(header, fields, strict=True)), place)


def need_folder(path: Path, expects: str) -> Path:
    """Return a folder that must be there."""
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; expected is {expects}")
    return path
