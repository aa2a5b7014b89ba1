"""What every command says in the same way: errors, notes, logs, and one line for any record."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, TYPE_CHECKING, NoReturn

import typer

from streamfer.errors import OutputError
from streamfer.redaction import hide_urls

if TYPE_CHECKING:
    from rich.console import Console

    from streamfer.api import Session
    from streamfer.pipeline.events import SourceStats
    from streamfer.records import Record

#: The loggers of what this repository ships.
OWN_LOGGERS = ("streamfer", "streamfer_kernels", "streamfer_train")

_BAR_CELLS = 10
#: What moves the cursor, colours, or turns the direction of writing: names of files may hold any of it.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

# Results go to standard output; progress, notes and errors to standard error, so that output can be piped.


def fail(message: str, code: int) -> NoReturn:
    """Print one line on standard error and exit."""
    complain(message)
    raise SystemExit(code)


def plain(text: str) -> str:
    """Return a text whose control characters are escaped, on one line."""
    return _CONTROL.sub(lambda odd: odd[0].encode("unicode_escape").decode(), text)


def complain(message: str) -> None:
    """Print an error on one line of standard error."""
    _tell(typer.style("streamfer: ", fg="red", bold=True) + plain(" ".join(message.split())))


def crash(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print the traceback of what nobody expected, without the addresses that libraries put into their errors."""
    typer.echo(hide_urls("".join(traceback.format_exception(kind, error, trace))), err=True, nl=False)


def note(message: str) -> None:
    """Print a line about what is going on, on standard error."""
    _tell(typer.style(plain(message), dim=True))


def _tell(line: str) -> None:
    typer.echo(line, err=True, color=False if os.environ.get("NO_COLOR") else None)


def say_licences(session: Session) -> None:
    """Say under which licences the loaded models came, as far as this user was not told; on a terminal only."""
    from streamfer.files import write_text
    from streamfer.models.registry import user_folder

    if not sys.stderr.isatty():
        return
    path, told = user_folder().parent / "licences.json", dict[str, str]()
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(path.read_text(encoding="utf-8"))
    if new := {name: licence for name, licence in session.licences().items() if told.get(name) != licence}:
        # Where nothing can be kept, it is told again.
        with contextlib.suppress(OutputError):
            write_text(path, json.dumps({**told, **new}, indent=2))
        note(f"licences of the weights, said once: {'; '.join(f'{name}: {licence}' for name, licence in new.items())}")


def console(file: IO[str] | None = None) -> Console:
    """Return what prints tables: to standard output unless ``file`` is another stream."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Piped(file=file, highlight=False)


class EventFormatter(logging.Formatter):
    """One line an event: when, how grave, what, and its keys; a traceback below."""

    _OWN = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = [f"{name}={value!r}" for name, value in vars(record).items() if name not in self._OWN]
        line = " ".join([when, f"{record.levelname.lower():<7}", record.getMessage(), *keys])
        return f"{line}\n{hide_urls(self.formatException(record.exc_info))}" if record.exc_info else line


def configure_logging(*, verbose: bool) -> None:
    """Send log events to standard error: streamfer's warnings, or all that it says if ``verbose``; others' errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter())
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)


def bar(probability: float) -> str:
    """Return a bar of ten cells and the percentage."""
    filled = round(probability * _BAR_CELLS)
    return "█" * filled + "░" * (_BAR_CELLS - filled) + f" {probability:.0%}"


def caption_words(stats: SourceStats) -> list[str]:
    """Return what became of a source's captions, in words; nothing where none were asked for."""
    words = [f"{stats.captions} captions"] if stats.captions else []
    if stats.captions_replaced:
        words[-1] += f", {stats.captions_replaced} of them measured words in place of texts that failed their checks"
    words += [f"{stats.captions_dropped} captions dropped (the captioner was busy)"] if stats.captions_dropped else []
    words += [f"{stats.captions_failed} captions failed"] if stats.captions_failed else []
    return words


def record_line(record: Record) -> str:
    """Return one readable line for any record."""
    return plain(_line(record))


def _line(record: Record) -> str:
    from streamfer.records import ClipCaptioned, ClipLabelled, FramesAnalysed, RawDocument, SourceStateChanged

    document = record.data
    if isinstance(document, RawDocument):
        return f"{_when(record)}  {record.subject}  {record.type}: {document.text}"
    if isinstance(document, ClipLabelled):
        face = document.faces[0]
        shown = f"{face.label:<9} {face.reason or bar(face.probability)}"
        return f"{_when(record)}  {record.subject}  {face.track_id}  {shown}"
    if isinstance(document, ClipCaptioned):
        return f"{_when(record)}  {record.subject}  {document.track_id}  “{document.text}”"
    if isinstance(document, SourceStateChanged):
        extra = f": {document.reason}" if document.reason else ""
        again = f" (attempt {document.attempt}, next in {document.delay:.1f} s)" if document.delay else ""
        return f"{_when(record)}  {record.subject}  {document.state}{extra}{again}"
    if isinstance(document, FramesAnalysed):
        most = max(len(frame.faces) for frame in document.frames)
        return f"{_when(record)}  {record.subject}  {len(document.frames)} frames, {most} faces at most"
    return f"{_when(record)}  {record.subject}  gap: {document.count} {document.unit}, {document.cause}"


def _when(record: Record) -> str:
    """Return the capture time of day (local) of live records, the place in the file of others."""
    from streamfer.records import ClipCaptioned, ClipLabelled

    if isinstance(record.data, ClipLabelled | ClipCaptioned) and record.time is None:
        clip = record.data.clip
        return f"{clip.start_time:7.1f}–{clip.end_time:.1f} s"
    return (record.time or record.recordedtime).astimezone().strftime("%H:%M:%S.%f")[:-4]
