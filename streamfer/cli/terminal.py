"""What every command says in the same way: errors, logs, the table of clips."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamfer.errors import InternalError

if TYPE_CHECKING:
    from streamfer.records import ClipLabelled, Record

#: Results go to standard output; progress, notes and errors to standard error, so that output can be piped.
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

#: The loggers of what this repository ships.
OWN_LOGGERS = ("streamfer", "streamfer_kernels", "streamfer_train")

_BAR_CELLS = 10
_WORTH_SHOWING = 0.01


def fail(message: str, code: int) -> NoReturn:
    """Print one line on standard error and exit."""
    complain(message)
    raise SystemExit(code)


def complain(message: str) -> None:
    """Print an error on one line of standard error."""
    err.print(Text.assemble(("streamfer: ", "bold red"), " ".join(message.split())), soft_wrap=True)


def note(message: str) -> None:
    """Print a line about what is going on, on standard error."""
    err.print(Text(message, style="dim"), soft_wrap=True)


class EventFormatter(logging.Formatter):
    """One line an event: when, how grave, what, and its keys; a traceback below."""

    _OWN = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = [f"{name}={value!r}" for name, value in vars(record).items() if name not in self._OWN]
        line = " ".join([when, f"{record.levelname.lower():<7}", record.getMessage(), *keys])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logging(*, verbose: bool) -> None:
    """Send log events to standard error: streamfer's warnings, or all that it says if ``verbose``; others' errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter())
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)


def clip_table(records: Iterable[Record]) -> Table:
    """Return a table of one source's labelled clips, person by person: time, label and the other likely labels."""
    rows = sorted(
        ((document, face) for document in map(_clip, records) for face in document.faces),
        key=lambda row: (row[0].clip.epoch, row[1].track, row[0].clip.start_time),
    )
    table = Table(header_style="bold", pad_edge=False, box=None)
    for name, width in (("track", 8), ("time", 12), ("label", 9), ("probability", _BAR_CELLS + 5)):
        table.add_column(name, no_wrap=True, min_width=width, justify="right" if name == "time" else "left")
    table.add_column("then", overflow="ellipsis", no_wrap=True, style="dim")
    for document, face in rows:
        span = f"{document.clip.start_time:.1f}–{document.clip.end_time:.1f} s"
        shown = bar(face.emotions[face.top])
        table.add_row(face.track_id, span, Text(face.top, style="bold"), shown, runners_up(face.emotions))
    return table


def caption_table(records: Iterable[Record]) -> Table:
    """Return a table of one source's captions, person by person."""
    from streamfer.records import ClipCaptioned as Captioned

    found = [record.data for record in records if isinstance(record.data, Captioned)]
    table = Table(header_style="bold", pad_edge=False, box=None)
    table.add_column("track", no_wrap=True, min_width=8)
    table.add_column("time", no_wrap=True, min_width=12, justify="right")
    table.add_column("caption", overflow="fold")
    for one in sorted(found, key=lambda one: (one.clip.epoch, one.track, one.clip.start_time)):
        table.add_row(one.track_id, f"{one.clip.start_time:.1f}–{one.clip.end_time:.1f} s", Text(one.text))
    return table


def _clip(record: Record) -> ClipLabelled:
    from streamfer.records import ClipLabelled as Labelled

    if not isinstance(record.data, Labelled):
        raise InternalError(f"the table of clips was given a {record.type} record")
    return record.data


def bar(probability: float) -> str:
    """Return a bar of ten cells and the percentage."""
    filled = round(probability * _BAR_CELLS)
    return "█" * filled + "░" * (_BAR_CELLS - filled) + f" {probability:.0%}"


def runners_up(emotions: Mapping[str, float]) -> str:
    """Return the two labels after the most probable one, where they have one per cent or more."""
    items = sorted(emotions.items(), key=lambda item: -item[1])[1:3]
    return ", ".join(f"{name} {value:.0%}" for name, value in items if value >= _WORTH_SHOWING)
