"""The command line: one module a command.

The modules import what is heavy inside their commands, so that ``streamfer --help`` answers at once and the thread
budget is set before any library starts its threads.
"""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import signal
import sys
import threading
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import streamfer
from streamfer.cli import annotate, ask, bridge, check, demo, doctor, models, run, serve, tail, train
from streamfer.cli.signals import INTERRUPTED
from streamfer.cli.terminal import configure_logging, crash, fail
from streamfer.errors import StreamferError
from streamfer.redaction import redact_text

#: Whatever was typed that no command takes; typer names its kinds alone.
_Usage: Any = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """Commands in which Ctrl-C, a reader that has gone and a full disk are what they are, wherever they come."""

    def main(self, *words: Any, **more: Any) -> Any:
        """Run the command line; what was typed wrongly is one line, as every error is."""
        try:
            code = super().main(*words, **{**more, "standalone_mode": False})
        except _Usage as error:
            said = error.format_message()
            if not said or "\n" in said:
                # Nothing was typed: the help says what could be.
                error.show()
                raise SystemExit(2) from None
            path = error.ctx.command_path if error.ctx else "streamfer"
            fail(f"{said.rstrip('.').replace('Value error, ', '')}; see: {path} --help", 2)
        raise SystemExit(code or 0)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; from here on SIGTERM is an order that ``run`` obeys, also while it gets ready."""
        found = super().resolve_command(ctx, args)
        if found[0] == "run":
            # There is nothing to clean up yet, and what is raised in a module's body may be lost there.
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        return found

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("stopped", INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output has gone (head, less): not an error, and nothing more can be said.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise SystemExit(0) from None
        except OSError as error:
            if error.errno != errno.ENOSPC or isinstance(error, StreamferError):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            fail("what is written to has no space left; make room, or write elsewhere", 2)


app = typer.Typer(
    name="streamfer",
    cls=_Commands,
    context_settings={"max_content_width": 100, "help_option_names": ["--help", "-h"]},
    help="Video in, facial expressions out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("annotate", cls=annotate.BareFlags)(annotate.annotate)
app.command("ask")(ask.ask)
app.command("run")(run.run)
app.command("check")(check.check)
app.command("tail")(tail.tail)
app.command("serve")(serve.serve)
app.command("bridge")(bridge.bridge)
app.add_typer(models.app, name="models")
app.command("train", context_settings=train.PASS_ON)(train.train)
app.command("evaluate", context_settings=train.PASS_ON)(train.evaluate)
app.command("doctor")(doctor.doctor)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"streamfer {streamfer.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what happens, as events on standard error.")
    ] = False,
) -> None:
    configure_logging(verbose=verbose)


def _end_quickly() -> None:
    """Have Python not collect once more what torch left: that takes most of a program's end."""
    # What Triton leaves it would call leaks, in many lines.
    if "triton" not in sys.modules:
        gc.freeze()


def main() -> None:
    """Run the command line; every error that streamfer raises on purpose ends in one line and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no bars and dashes shows question marks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    atexit.register(_end_quickly)
    sys.excepthook = crash
    threading.excepthook = lambda args: crash(args.exc_type, args.exc_value, args.exc_traceback)
    try:
        app(prog_name="streamfer")
    except StreamferError as error:
        if os.environ.get("STREAMFER_TRACEBACK"):
            raise
        fail(redact_text(str(error)), error.exit_code)
