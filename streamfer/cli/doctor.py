"""``streamfer doctor``: what is installed, what was chosen, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli import options
from streamfer.cli.terminal import console

if TYPE_CHECKING:
    from streamfer.config import Config

#: What to do after it.
NEXT = """
Next:
  streamfer demo --serve           everything on two photographs, with the live page
  streamfer annotate VIDEO         tables of a film of yours
  streamfer run rtsp://CAMERA      follow a camera; streamfer serve shows it"""


@options.takes("redis")
def doctor(
    config: Config,
    retune: Annotated[bool, typer.Option("--retune", help="Measure the forms of the encoder on the GPU anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Show what would be used, and why.

    Versions, devices, threads, models, who writes captions, Redis. Exits with 2 when something that the default
    settings need does not work.
    """
    from rich.table import Table
    from rich.text import Text

    from streamfer.api.doctor import examine

    sections = examine(config, retune=retune)
    if as_json:
        console().print_json(data={title: {one.name: one.text for one in found} for title, found in sections.items()})
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for title, found in sections.items():
            table.add_row(Text(title, style="bold cyan"), "")
            for one in found:
                table.add_row(f"  {one.name}", Text(one.text, style="" if one.good else "red"))
        console().print(table)
        console().print(NEXT, style="bold", markup=False)
    if not all(one.good for found in sections.values() for one in found):
        raise SystemExit(2)
