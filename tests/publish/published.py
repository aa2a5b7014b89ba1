"""Records as publishers left them, for the tests of who follows them."""

from __future__ import annotations

from typing import Any

import redis
from record_examples import labelled, span

from streamfer.records import Record

CLIPS = "streamfer:{0}:clips"
DEAD = "streamfer:{0}:dead"
IDLE = 0.3


def clips(count: int, source: str = "hall") -> list[Record]:
    return [Record.of(labelled(span(start_pts=i)), source_id=source).numbered(i) for i in range(count)]


def later(kind: str, text: str) -> Any:
    """Fields of a record that a later streamfer wrote."""
    return {**clips(1)[0].to_fields(), "ce_id": "later", "ce_type": f"streamfer.{kind}", "data": text}


def entries(client: redis.Redis, stream: str) -> Any:
    """Entries of a stream, oldest first, as pairs of id and fields."""
    return client.xrange(stream)


def pending(client: redis.Redis) -> int:
    return int(client.xpending(CLIPS, "g")["pending"])
