"""The data dictionary in ``columns.toml``: every column of every table, its format and its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from streamfer.files import table_beside

#: Formats of cells: text, a whole number, seconds, a share or an intensity, a score.
TEXT, WHOLE, TIME, SHARE, SCORE = "", "d", ".3f", ".6f", ".4f"
_FORMATS = {"text": TEXT, "integer": WHOLE, "time": TIME, "share": SHARE, "score": SCORE}
_KINDS = {TEXT: "text", WHOLE: "integer"}
_DATA: Mapping[str, Any] = table_beside(__file__)

#: Format and meaning by name; ``<class>``, ``<unit>`` and ``<column>`` stand for the model's names and other columns.
FORMAT: Mapping[str, str] = {name: _FORMATS[kind] for name, (kind, _) in _DATA["columns"].items()}
MEANING: Mapping[str, str] = {name: meaning for name, (_, meaning) in _DATA["columns"].items()}


def _columns(table: str, part: str = "columns") -> Mapping[str, str]:
    return {name: FORMAT[name] for name in _DATA["tables"][table][part].split()}


#: Columns of each table before those that depend on the model, and the times behind them.
CLIP_COLUMNS, FRAME_COLUMNS, TRACK_COLUMNS = _columns("clips"), _columns("frames"), _columns("tracks")
CAPTION_COLUMNS, SEGMENT_COLUMNS, FILE_COLUMNS = _columns("captions"), _columns("segments"), _columns("files")
MEDIA_SPAN: Mapping[str, str] = dict.fromkeys(("media_start_s", "media_end_s"), TIME)
MEDIA_MOMENT: Mapping[str, str] = {"media_seconds": TIME}


def dictionary() -> Iterator[tuple[str, str, str, str]]:
    """Yield table, column, type and meaning of every column in its place."""
    for table in _DATA["tables"]:
        for name, spec in {**_columns(table), **_columns(table, "more")}.items():
            yield table, name, _KINDS.get(spec, f"number, {spec[1:-1]} digits"), MEANING[name]


def to_markdown() -> str:
    """Return the dictionary as the page that ``docs/tables.md`` holds (``python -m streamfer.export.columns``)."""
    lines = ["# Columns", "", "Written by `python -m streamfer.export.columns > docs/tables.md`; a test compares."]
    for name, table in _DATA["tables"].items():
        lines += ["", f"## {name}", "", f"A row: {table['row']}.", "", "| column | type | meaning |", "|---|---|---|"]
        lines += [f"| `{column}` | {kind} | {text} |" for where, column, kind, text in dictionary() if where == name]
    return "\n".join(lines)


if __name__ == "__main__":
    print(to_markdown())
