"""``streamfer check``: what a source is, whether it can be read, and what to set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli import options
from streamfer.cli.terminal import complain

if TYPE_CHECKING:
    from streamfer.api.checking import Checked
    from streamfer.config import Config


@options.takes()
def check(
    config: Config,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", hidden=True)] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.5, metavar="S", show_default=False, help="How long to watch (3).")
    ] = 3.0,
) -> None:
    """Read a camera, stream or file for a few seconds.

    SOURCE is a URL, a file, or the id of a source of --config; without one, all of --config are checked. An RTSP
    camera is read over TCP and over UDP.
    """
    from streamfer.api.checking import check_source

    found = []
    for checked in check_source(source, config, seconds):
        found.append(checked)
        _say(checked)
    ids = {checked.source_id for checked in found}
    if ids - {checked.source_id for checked in found if checked.error is None}:
        raise SystemExit(2)


def _say(checked: Checked) -> None:
    over = f" over {checked.transport}" if checked.transport else ""
    if checked.error is not None or checked.info is None:
        said = str(checked.error or "no picture").removeprefix(f"{checked.source_id}: ")
        complain(f"{checked.source_id}{over}: {said}")
        return
    info = checked.info
    rate = f"{checked.fps:.1f} fps" if checked.fps else "one picture"
    stated = f" (states {info.declared_fps:.4g})" if info.declared_fps else ""
    length = f"{info.duration:.1f} s long" if info.duration else "live" if info.live else "of unknown length"
    words = [f"{info.codec} {info.width}x{info.height}", f"{rate}{stated}", length, f"clock {checked.clock}"]
    typer.echo(f"{checked.source_id}{over}: {', '.join(words)}; first picture after {checked.first:.1f} s")
    for line in checked.advice:
        typer.echo(f"  set {line}")
