"""Appending records to their streams once, however often they are sent.

One Lua script, in one step for all records of a partition, appends what is not marked yet and marks its id under a key
that expires: duplicates are suppressed for that time, not for ever. Redis 8.6's own way (``XADD ... IDMP``) knows the
last ten thousand ids alone, fewer than a spool may hold. The records come as one argument, in MessagePack, which both
sides write and read several times faster than thousands of arguments.

From here on a record is the fields of its entry: what a spool held for an hour is not read and written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import redis

from streamfer.publish.connection import node_of
from streamfer.publish.keys import Keys

if TYPE_CHECKING:
    # Who only reads need not wait for it.
    from streamfer.config import PublishConfig

#: A record as the fields of a stream's entry, numbered.
Fields = Mapping[str, str]

_APPEND_LUA = Path(__file__).with_name("append.lua").read_text(encoding="utf-8")


class ForgottenError(Exception):
    """Another run of the server answers than took the records before, which it may have forgotten."""


class Outcome(StrEnum):
    """What became of a record."""

    NEW = "new"
    DUPLICATE = "duplicate"


def append(
    client: redis.Redis,
    keys: Keys,
    config: PublishConfig,
    records: Sequence[Fields],
    runs: dict[int, str] | None = None,
    asked: Iterable[int] = (),
) -> list[Outcome]:
    """Append ``records``, those of a partition in one step, and say what became of each.

    A record whose first reply was lost counts as a duplicate when it is sent again. Streams are trimmed approximately:
    whole nodes go at a time. ``runs`` has by partition which run of its server took the records before, and is brought
    up to date; ``asked`` are partitions whose server is to say its run though there may be nothing to append.

    Raises:
        ForgottenError: it is another run now, and nothing was appended in its partitions.
        redis.RedisError: the connection broke or the server refused; sending all of them again is safe.
    """
    runs = {} if runs is None else runs
    places: dict[int, list[int]] = {partition: [] for partition in asked}
    for place, record in enumerate(records):
        places.setdefault(keys.partition(record["ce_subject"]), []).append(place)
    with client.pipeline(transaction=False) as pipeline:
        for partition, members in places.items():
            names = [keys.moved(partition), *(keys.seen(records[place]["ce_id"], partition) for place in members)]
            streams: dict[str, int] = {}
            rows = []
            for record in (records[place] for place in members):
                name, subject = keys.name_of(record["ce_type"]), record["ce_subject"]
                most = config.frames or config.maxlen if name == "frames" else config.maxlen
                key = streams.setdefault(keys.stream(name, partition), len(names) + len(streams) + 1)
                number = record.get("ce_sequence", "")
                rows.append((key, str(most), f"{name} {subject}", number, *chain.from_iterable(record.items())))
            names += streams
            words: tuple[Any, ...] = (str(config.dedup_seconds), runs.get(partition, ""), msgpack.packb(rows))
            # EVAL rather than EVALSHA: a server that restarted has forgotten the script, and its text is
            # small beside the records. By hand: the pipeline of a Cluster's client has no method for it.
            words = ("EVAL", _APPEND_LUA, len(names), *names, *words)
            pipeline.execute_command(*words, **node_of(client, names[0]))  # type: ignore[no-untyped-call]
        # redis-py's own raising would put the whole command, with the records in it, into the message.
        replies: list[Any] = pipeline.execute(raise_on_error=False)
    outcomes: dict[int, Outcome] = {}
    # Before any run is noted: what one server forgot must be known whatever another one refuses.
    if refusals := [reply for reply in replies if isinstance(reply, Exception)]:
        raise refusals[0]
    forgotten = False
    for (partition, members), reply in zip(places.items(), replies, strict=True):
        run = text(reply[0])
        forgotten |= runs.get(partition, "") not in ("", run)
        runs[partition] = run
        outcomes |= zip(members, (Outcome.NEW if new else Outcome.DUPLICATE for new in reply[1:]), strict=False)
    if forgotten:
        raise ForgottenError
    return [outcomes[place] for place in range(len(records))]


def text(value: bytes | str) -> str:
    """What the server said, as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def entry_number(entry_id: bytes | str) -> tuple[int, int]:
    """A stream entry id as numbers that sort as the server sorts them."""
    milliseconds, _, counter = text(entry_id).partition("-")
    return int(milliseconds), int(counter or 0)
