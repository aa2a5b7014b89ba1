"""What every command says in the same way: errors, logs, the table of clips."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NoReturn

import structlog
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from streamfer.records import ClipLabelled, Record

#: Results go to standard output; progress, notes and errors to standard error, so that output can be piped.
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_BAR_CELLS = 10


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


def configure_logging(*, verbose: bool) -> None:
    """Send log events to standard error; only warnings unless ``verbose``."""
    level = logging.INFO if verbose else logging.WARNING
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)


def clip_table(records: Iterable[Record], *, title: str | None = None) -> Table:
    """Return a table of labelled clips: track, time, label and all probabilities, highest first."""
    table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False, box=None)
    table.add_column("source", overflow="fold", max_width=28)
    table.add_column("track")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("label", style="bold", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("probabilities", overflow="fold")
    for record in records:
        document: ClipLabelled = record.data  # type: ignore[assignment]  # callers pass labelled clips only
        for face in document.faces:
            probability = face.emotions[face.top]
            table.add_row(
                record.subject,
                face.track_id,
                f"{document.clip.start_time:.1f}–{document.clip.end_time:.1f} s",
                face.top,
                bar(probability),
                probabilities(face.emotions),
            )
    return table


def bar(probability: float) -> str:
    """Return a bar of ten cells and the percentage."""
    filled = round(probability * _BAR_CELLS)
    return "█" * filled + "░" * (_BAR_CELLS - filled) + f" {probability:4.0%}"


def probabilities(emotions: Mapping[str, float]) -> str:
    """Return ``label 0.12`` for each class, the most probable first."""
    items = sorted(emotions.items(), key=lambda item: -item[1])
    return "  ".join(f"{name} {value:.2f}" for name, value in items)
