"""Records as publishers left them, for the tests of who follows them."""

from __future__ import annotations

from contextlib import closing
from operator import itemgetter
from typing import Any

import redis
from record_examples import labelled, span

from streamfer.publish import connect
from streamfer.records import Record

CLIPS = "streamfer:{0}:clips"
DEAD = "streamfer:{0}:dead"
IDLE = 0.3


def clips(count: int, source: str = "hall") -> list[Record]:
    return [Record.of(labelled(span(start_pts=i)), source_id=source).numbered(i) for i in range(count)]


def unnumbered(first: int, last: int) -> list[Record]:
    return [Record.of(labelled(span(start_pts=at, end_pts=at + 9)), source_id="hall") for at in range(first, last)]


def ids(records: list[Record]) -> list[str]:
    return [record.id for record in records]


def stored(url: str, key: str = CLIPS) -> list[Record]:
    """Records of a stream, oldest first."""
    with closing(connect(url)) as client:
        return [Record.from_fields(fields) for _, fields in entries(client, key)]


def later(kind: str, text: str) -> Any:
    """Fields of a record that a later streamfer wrote."""
    return {**clips(1)[0].to_fields(), "ce_id": "later", "ce_type": f"streamfer.{kind}", "data": text}


def everything(url: str) -> list[Record]:
    """All records that a server holds now, in the order in which they came."""
    found: list[tuple[list[int], Any]] = []
    with closing(connect(url)) as client:
        for name in ("clips", "captions", "sources"):
            held = entries(client, f"streamfer:{{0}}:{name}")
            found += [([int(part) for part in number.split(b"-")], fields) for number, fields in held]
    return [Record.from_fields(fields) for _, fields in sorted(found, key=itemgetter(0))]


def entries(client: redis.Redis, stream: str) -> Any:
    """Entries of a stream, oldest first, as pairs of id and fields."""
    return client.xrange(stream)


def pending(client: redis.Redis) -> int:
    return int(client.xpending(CLIPS, "g")["pending"])
