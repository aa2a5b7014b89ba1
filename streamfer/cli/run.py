"""``streamfer run``: sources in, records out, until stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli import options
from streamfer.cli.printing import Printer
from streamfer.cli.terminal import caption_words, complain, record_line, say_licences
from streamfer.extras import needs

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.pipeline.events import Event, SourceDone


#: Said once, when the first camera opens.
NOTICE = (
    "people in view must be told, and emotions must not be inferred at work or in education (EU AI Act): "
    "docs/lawful-use.md has what to put up"
)


@options.takes("redis", "health", "live__wait", "captions", "captioner", *options.ANALYSIS, "purpose")
def run(
    session: Session,
    sources: Annotated[list[str] | None, typer.Argument(metavar="SOURCE", hidden=True)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no clips, only errors.")] = False,
) -> None:
    """Analyse cameras and files, and publish what is found to Redis.

    A source is an RTSP or http(s) URL, webcam:0 or a file; without one, those of --config are analysed. Runs until
    every source has ended, or until Ctrl-C (exit code 130) or SIGTERM (0), which publish what is complete. A camera
    that breaks is opened again, and its records say so.
    """
    from streamfer.cli.publishing import follow_command
    from streamfer.cli.signals import stopping
    from streamfer.pipeline.events import SourceOpened

    begun = noticed = False

    def watch(event: Event) -> None:
        nonlocal begun, noticed
        if not begun:
            begun = True
            say_licences(session)
            printer.say(f"follow the records with: {follow_command(session.config.publish)}", note=True)
        if not noticed and isinstance(event, SourceOpened) and event.info.live:
            noticed = True
            aim = session.config.purpose or "not stated (--purpose WORDS)"
            printer.say(f"{NOTICE}; purpose of this run: {aim}", note=True)
        told(event)
        _say(event, printer, quiet=quiet)

    with (
        stopping(session, terminated=0) as stopped,
        session,
        Printer(session.stop) as printer,
        _answering(session, printer) as told,
    ):
        ends = session.publish(sources or None, watch=watch)
    if code := stopped.code() or (2 if any(end.error for end in ends) else 0):
        raise SystemExit(code)


@contextmanager
def _answering(session: Session, printer: Printer) -> Iterator[Callable[[Event], None]]:
    """Answer for the run over HTTP, where that is asked for; yield what wants its events."""
    address = session.config.health.address
    if address is None:
        yield lambda _event: None
        return
    with needs("serve", "--health"):
        from streamfer.serve.board import Board
        from streamfer.serve.control import Control
        from streamfer.serve.health import health_routes
        from streamfer.serve.server import Server
    board = Board(session)
    with Server(address, [*health_routes(session, board), *Control(session, board).routes]) as server:
        printer.say(f"health and metrics: {server.url}/livez /readyz /metrics", note=True)
        yield board.take


def _say(event: Event, printer: Printer, *, quiet: bool) -> None:
    from streamfer.pipeline.events import SourceDone
    from streamfer.records import Record

    if isinstance(event, SourceDone):
        _say_done(event, printer)
    elif isinstance(event, Record) and not quiet:
        printer.say(record_line(event))


def _say_done(event: SourceDone, printer: Printer) -> None:
    stats = event.stats
    if event.error is not None:
        complain(str(event.error))
        return
    how = "stopped" if event.stopped else "ended"
    words = [f"{stats.clips} clips of {stats.tracks} face tracks in {stats.seconds:.1f} s of video"]
    words += [stats.unread] if stats.unread else []
    words += caption_words(stats)
    words += [f"{stats.frames_dropped} frames dropped (this machine was busy)"] if stats.frames_dropped else []
    words += [event.note] if event.note else []
    printer.say(f"{event.source_id}: {how}; {'; '.join(words)}", note=True)
