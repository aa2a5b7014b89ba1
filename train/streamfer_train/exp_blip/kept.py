"""What a model writes about many pictures, kept line by line: an interrupted run goes on behind the last whole line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from streamfer.errors import RecordError
from streamfer_train.captions.files import read_entries

T = TypeVar("T")


def read_kept(path: Path, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the lines of an earlier run; a last line that was cut short is dropped from the file.

    Raises:
        RecordError: a line has other fields.
    """
    if not path.exists():
        return []
    contents = path.read_bytes()
    if not contents.endswith(b"\n"):
        contents = contents[: contents.rfind(b"\n") + 1]
        with path.open("r+b") as stream:
            stream.truncate(len(contents))
    entries = read_entries(path) if contents else []
    for entry in entries:
        if set(fields) - entry.fields.keys():
            raise RecordError(f"{entry.place}: no line of this command; choose another --out, or delete the file")
    return [dict(entry.fields) for entry in entries]


def keep(path: Path, rows: Iterable[dict[str, Any]], every: int) -> Iterator[dict[str, Any]]:
    """Append rows as they come, on the disk after ``every`` of them and at the end, and hand them on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        for count, row in enumerate(rows, start=1):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            if count % every == 0:
                stream.flush()
                os.fsync(stream.fileno())
            yield row


def windows(items: list[T], size: int) -> Iterator[list[T]]:
    """Yield items in lists of ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
