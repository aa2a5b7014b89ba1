"""``streamfer tail``: follow the records as any subscriber would."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli.signals import INTERRUPTED
from streamfer.cli.terminal import note, record_line

if TYPE_CHECKING:
    from streamfer.publish import Subscription
    from streamfer.records import Record


def tail(
    url: Annotated[str | None, typer.Argument(metavar="URL", hidden=True)] = None,
    since: Annotated[
        str,
        typer.Option(
            "--since",
            "--from",
            metavar="WHERE",
            help="new, start (all that is kept), an entry's id, a time, or how long ago (90s, 10m, 2h, 1d).",
        ),
    ] = "new",
    streams: Annotated[
        str, typer.Option("--streams", metavar="LIST", help="clips, captions, sources, frames, with commas.")
    ] = "clips,captions,sources",
    source: Annotated[
        list[str] | None, typer.Option("--source", "-s", metavar="NAME", help="Only this source; repeatable.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", "-g", metavar="NAME", help="Join a group: its members share the records.")
    ] = None,
    consumer: Annotated[str | None, typer.Option("--consumer", metavar="NAME", help="Name within the group.")] = None,
    claim_idle: Annotated[
        float,
        typer.Option("--claim-idle", min=0.1, metavar="S", help="Take a member's unfinished records after so long."),
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, with all fields.")] = False,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, metavar="N", help="Stop after so many records.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option("--idle", min=0.1, metavar="S", help="Stop when no record came for so long.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", metavar="WORD", help="As the publisher has it.")] = "streamfer",
    partitions: Annotated[int, typer.Option("--partitions", min=1, metavar="N", help="As the publisher has it.")] = 1,
) -> None:
    """Follow the records that streamfer publishes, and print one line for each.

    URL is a redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// one; without it, the embedded server's
    records are followed. As a member of a consumer --group, a record is acknowledged once it is printed, and the
    records of a member that died go to another.
    """
    # redis-py loads OpenTelemetry where it is installed: a tenth of the start, for nothing. There is no garbage yet.
    hidden = sys.modules.setdefault("opentelemetry", None) is None  # type: ignore[arg-type]
    gc.disable()
    from streamfer.publish import subscribe

    gc.enable()
    if hidden:
        del sys.modules["opentelemetry"]
    subscription = subscribe(
        url,
        streams=streams,
        since=since,
        group=group,
        consumer=consumer,
        claim_idle_s=claim_idle,
        sources=source,
        prefix=prefix,
        partitions=partitions,
        idle_s=idle,
    )
    if not as_json and since == "new":
        note("waiting for new records; Ctrl-C ends")
    _print(subscription, count, (lambda record: record.to_json()) if as_json else record_line)


def _print(subscription: Subscription, count: int | None, line: Callable[[Record], str]) -> None:
    """Print a line for each record, acknowledged when it is printed, until ``count``, Ctrl-C or SIGTERM."""
    told, telling = 0, False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told
        # A line is finished and counted first, unless it cannot be: a second signal says so.
        first, told = not told, number
        if not (telling and first):
            signal.default_int_handler(number, frame)

    # Both by hand: a shell has its background jobs ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    seen = 0
    with subscription, contextlib.suppress(KeyboardInterrupt):
        for record in subscription:
            telling = True
            typer.echo(line(record))
            subscription.commit()
            seen += 1
            telling = False
            if told or (count is not None and seen >= count):
                break
    if told:
        note(f"{seen} records")
    if told == signal.SIGINT:
        raise SystemExit(INTERRUPTED)
