"""Tables of clips and captions on the terminal, person by person."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from streamfer.cli.terminal import bar
from streamfer.records import ClipCaptioned, ClipLabelled, Record

_WORTH_SHOWING = 0.01
_BAR_WIDTH = 15


def clip_table(records: Iterable[Record]) -> Table:
    """Return a table of one source's labelled clips, person by person: time, label and the other likely labels."""
    rows = sorted(
        ((one.data, face) for one in records if isinstance(one.data, ClipLabelled) for face in one.data.faces),
        key=lambda row: (row[0].clip.epoch, row[1].track, row[0].clip.start_time),
    )
    table = Table(header_style="bold", pad_edge=False, box=None)
    for name, width in (("track", 8), ("time", 12), ("label", 9), ("probability", _BAR_WIDTH)):
        table.add_column(name, no_wrap=True, min_width=width, justify="right" if name == "time" else "left")
    table.add_column("then", overflow="ellipsis", no_wrap=True, style="dim")
    for document, face in rows:
        span = f"{document.clip.start_time:.1f}–{document.clip.end_time:.1f} s"
        # A bar beside "unsure" would say how sure that is; the reason stands there, and every class behind it.
        shown = face.reason or bar(face.probability)
        likely = sorted(face.emotions.items(), key=lambda item: -item[1])[0 if face.reason else 1 :][:2]
        behind = ", ".join(f"{name} {value:.0%}" for name, value in likely if value >= _WORTH_SHOWING)
        table.add_row(face.track_id, span, Text(face.label, style="bold"), shown, behind)
    return table


def caption_table(records: Iterable[Record]) -> Table:
    """Return a table of one source's captions, person by person."""
    found = [record.data for record in records if isinstance(record.data, ClipCaptioned)]
    table = Table(header_style="bold", pad_edge=False, box=None)
    table.add_column("track", no_wrap=True, min_width=8)
    table.add_column("time", no_wrap=True, min_width=12, justify="right")
    table.add_column("caption", overflow="fold")
    for one in sorted(found, key=lambda one: (one.clip.epoch, one.track, one.clip.start_time)):
        table.add_row(one.track_id, f"{one.clip.start_time:.1f}–{one.clip.end_time:.1f} s", Text(one.text))
    return table
