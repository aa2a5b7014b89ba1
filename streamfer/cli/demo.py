"""``streamfer demo``: everything at once, on real faces, with nothing but this package."""

from __future__ import annotations

import os
import signal
import sys
import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli import options
from streamfer.cli.signals import INTERRUPTED, first_of
from streamfer.cli.terminal import console, fail, note

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.api.demo import Demonstration


# The same people have the same ids in every run, so that what an earlier one left in Redis is of them, too.
@options.takes("redis", "captions", "captioner", "model", "detector", "threads", captions="changes", salt="demo")
def demo(
    session: Session,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", show_default=False, help="For it all (streamfer-demo).")
    ] = "streamfer-demo",
    page: Annotated[bool, typer.Option("--serve", help="Then show the live page, where the demo plays on.")] = False,
) -> None:
    """Make a short film with real faces, and run everything on it.

    Takes pictures that installed packages carry; labels and describes the faces, publishes the records to a real Redis
    server (embedded unless --redis names one), reads them back as a subscriber, and shows them.
    """
    from streamfer.api.demo import demonstrate
    from streamfer.cli.publishing import follow_command, program

    with session:
        found = demonstrate(session, output, note)
    _show(found)
    again = f" ({found.known} were there from an earlier run: equal ids are stored once)" if found.known else ""
    what = f"{len(found.clips)} clips" + (f" and {len(found.captions)} captions" if found.captions else "")
    typer.echo(f"\n{what} in Redis{again}. Read them again, or follow new ones:")
    typer.echo(f"  {follow_command(session.config.publish, '--from', 'start', '--idle', '1')}")
    typer.echo(f"  {follow_command(session.config.publish)}")
    typer.echo(f"Look at {found.overlay} and, in a browser, at {found.report}")
    typer.echo(f"Label a video of your own:\n  {program()} annotate VIDEO")
    if page:
        _play_on(session, found)


def _play_on(session: Session, found: Demonstration) -> None:
    """Have the live page, and publish the demo's records in its own time, again and again, until Ctrl-C."""
    from streamfer.api.demo import play
    from streamfer.extras import needs

    with needs("serve", "demo --serve"):
        from streamfer.serve.dashboard import serving
    stop = first_of(signal.SIGINT)
    with serving(session.config) as url:
        note(f"look at {url}; Ctrl-C ends")
        if sys.stdout.isatty() and (os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"} or sys.platform == "darwin"):
            webbrowser.open(url)
        play(session, found, stop)
    fail("stopped", INTERRUPTED)


def _show(found: Demonstration) -> None:
    """Print every clip, and what was said first of each face."""
    from streamfer.cli.tables import caption_table, clip_table
    from streamfer.records import ClipCaptioned

    console().print(clip_table(found.clips))
    # Of several captions of a track the first one stands.
    spoken = [(record.data, record) for record in reversed(found.captions)]
    first = {data.track_id: record for data, record in spoken if isinstance(data, ClipCaptioned)}
    if first:
        typer.echo()
        console().print(caption_table(first.values()))
