"""``streamfer tail``: follow the records as any subscriber would."""

from __future__ import annotations

import signal
from typing import Annotated, cast

import typer

from streamfer.cli.run import record_line
from streamfer.cli.terminal import note, out
from streamfer.errors import ConfigError


def tail(
    url: Annotated[
        str | None, typer.Argument(help="redis://, rediss:// or unix:// URL; the embedded server when not given.")
    ] = None,
    start: Annotated[
        str,
        typer.Option("--from", help="new, start (everything kept), or the id of the entry after which to begin."),
    ] = "new",
    streams: Annotated[str, typer.Option("--streams", help="clips, captions, sources, with commas.")] = (
        "clips,captions,sources"
    ),
    source: Annotated[list[str] | None, typer.Option("--source", "-s", help="Only this source; repeatable.")] = None,
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="Join a consumer group: its members share the records.")
    ] = None,
    consumer: Annotated[str | None, typer.Option("--consumer", help="Name within the group.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, with all fields.")] = False,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Stop after so many records.")] = None,
    idle: Annotated[
        float | None, typer.Option("--idle", min=0.1, help="Stop when no record came for so many seconds.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Prefix of the keys, as the publisher has it.")] = "streamfer",
    partitions: Annotated[int, typer.Option("--partitions", min=1, help="As the publisher has it.")] = 1,
) -> None:
    """Follow the records that streamfer publishes, and print one line for each.

    Alone, or with --group as a member of a consumer group: then a record is acknowledged once it is printed,
    and the records of a member that died go to another.
    """
    from streamfer.publish import STREAM_NAMES, StreamName, subscribe

    wanted = [name.strip() for name in streams.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in STREAM_NAMES]
    if unknown or not wanted:
        raise ConfigError(f"--streams {streams}: choose from {', '.join(STREAM_NAMES)}")
    subscription = subscribe(
        url,
        streams=cast("list[StreamName]", wanted),
        from_=start,
        group=group,
        consumer=consumer,
        sources=source,
        prefix=prefix,
        partitions=partitions,
        idle_s=idle,
    )
    # Both by hand: a shell has its background jobs ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    seen = 0
    try:
        if not as_json and start == "new":
            note("waiting for new records; Ctrl-C ends")
        for record in subscription:
            if as_json:
                typer.echo(record.to_json())
            else:
                out.print(record_line(record), soft_wrap=True)
            subscription.commit()
            seen += 1
            if count is not None and seen >= count:
                break
    except KeyboardInterrupt:
        note(f"{seen} records")
    finally:
        subscription.close()
