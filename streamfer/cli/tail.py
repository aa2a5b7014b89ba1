"""``streamfer tail``: follow the records as any subscriber would."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamfer.cli.options import option, takes
from streamfer.cli.signals import INTERRUPTED
from streamfer.cli.terminal import note, record_line

if TYPE_CHECKING:
    from streamfer.publish import Subscription
    from streamfer.records import Record


#: Arguments of :func:`streamfer.subscribe`.
_PASSED = {
    "since": option(
        str,
        "--since --from",
        "WHERE",
        "new, start (all that is kept), an entry's id, a time, or how long ago, as 10m (new).",
    ),
    "streams": option(str, "--streams", "LIST", "Of clips, captions, sources, frames, with commas (the first three)."),
    "sources": option(list[str], "--source -s", "NAME", "Only this source; repeatable."),
    "group": option(str, "--group -g", "NAME", "Join a group: its members share the records."),
    "consumer": option(str, "--consumer", "NAME", "Name within the group."),
    "claim_idle_s": option(
        float, "--claim-idle", "S", "Take a member's unfinished records after so long (60).", min=0.1
    ),
    "idle_s": option(float, "--idle", "S", "Stop when no record came for so long.", min=0.1),
    "prefix": option(str, "--prefix", "WORD", "As the publisher has it (streamfer)."),
    "partitions": option(int, "--partitions", "N", "As the publisher has it (1).", min=1),
}


@takes(passed=_PASSED)
def tail(
    url: Annotated[str | None, typer.Argument(metavar="URL", hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, with all fields.")] = False,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, metavar="N", help="Stop after so many records.")
    ] = None,
    **passed: Any,
) -> None:
    """Follow what streamfer publishes, a line a record.

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
    subscription = subscribe(url, **passed)
    if not as_json and passed.get("since", "new") == "new":
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
