"""The data dictionary in ``columns.toml``: every column of every table, its format and its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamfer.files import table_beside
from streamfer.records import UNSURE

#: Formats of cells: text, a whole number, seconds, a share or an intensity, a score.
TEXT, WHOLE, TIME, SHARE, SCORE = "", "d", ".3f", ".6f", ".4f"
_FORMATS = {"text": TEXT, "integer": WHOLE, "time": TIME, "share": SHARE, "score": SCORE}
_KINDS = {TEXT: "text", WHOLE: "integer"}
_DATA: Mapping[str, Any] = table_beside(__file__)

#: Format and meaning by name; ``<class>``, ``<unit>`` and ``<column>`` stand for the model's names and other columns.
FORMAT: Mapping[str, str] = {name: _FORMATS[kind] for name, (kind, _) in _DATA["columns"].items()}
MEANING: Mapping[str, str] = {name: meaning for name, (_, meaning) in _DATA["columns"].items()}


def columns_of(table: str, classes: Sequence[str] = (), units: Sequence[str] = ()) -> dict[str, str]:
    """Return the columns of a table in order with their formats, for a model's classes and action units."""
    found = {}
    for pattern in _patterns(table):
        labels = (*classes, UNSURE) if classes and pattern.startswith("share_") else classes
        names = units if "<unit>" in pattern else labels if "<class>" in pattern else ("",) * ("<" not in pattern)
        for name in names:
            found[pattern.replace("<class>", name).replace("<unit>", name)] = FORMAT[pattern]
    return found


def dictionary() -> Iterator[tuple[str, str, str, str]]:
    """Yield table, column, type and meaning of every column in its place."""
    for table in _DATA["tables"]:
        for name in _patterns(table):
            yield table, name, _KINDS.get(FORMAT[name], f"number, {FORMAT[name][1:-1]} digits"), MEANING[name]


def _patterns(table: str) -> list[str]:
    columns: str = _DATA["tables"][table]["columns"]
    return columns.split()
