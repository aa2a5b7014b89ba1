"""Idempotent append on a real server."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from record_examples import examples, labelled, span
from redis import exceptions as faults

from streamfer.config import PublishConfig
from streamfer.publish import Keys, Outcome
from streamfer.publish.append import append, entry_number
from streamfer.records import Record

KEYS = Keys()
N, D = Outcome.NEW, Outcome.DUPLICATE


def clips(count: int, source: str = "hall") -> list[Record]:
    return [Record.of(labelled(span(start_pts=i)), source_id=source).numbered(i) for i in range(count)]


def put(client: redis.Redis, records: list[Record], most: int = 1000) -> list[Outcome]:
    fields = [record.to_fields() for record in records]
    return append(client, KEYS, PublishConfig(maxlen=most, dedup_seconds=60), fields)


def test_each_record_once_and_in_order(client: redis.Redis) -> None:
    records = clips(5)
    assert put(client, records[:3]) == [N, N, N]
    assert put(client, [records[1], records[3], records[4], records[3]]) == [D, N, N, D]
    entries: Any = client.xrange("streamfer:{0}:clips")
    assert [Record.from_fields(fields) for _, fields in entries] == records


def test_every_kind_finds_its_stream(client: redis.Redis) -> None:
    assert put(client, list(examples().values())) == [N] * 5
    lengths = {name: client.xlen(KEYS.stream(name)) for name in ("clips", "captions", "sources", "frames")}
    assert lengths == {"clips": 2, "captions": 1, "sources": 1, "frames": 1}


def test_the_window_ends(client: redis.Redis) -> None:
    (record,) = clips(1)
    put(client, [record])
    assert 0 < int(client.ttl(KEYS.seen(record.id))) <= 60
    client.delete(KEYS.seen(record.id))
    assert put(client, [record]) == [N]


def test_a_failed_append_leaves_no_mark(client: redis.Redis) -> None:
    """Otherwise the retry would be taken for a duplicate of a record that is nowhere."""
    (record,) = clips(1)
    client.set("streamfer:{0}:clips", "not a stream")
    with pytest.raises(faults.ResponseError, match="WRONGTYPE") as caught:
        put(client, [record])
    assert record.id not in str(caught.value)
    client.delete("streamfer:{0}:clips")
    assert put(client, [record]) == [N]


def test_streams_are_trimmed(client: redis.Redis) -> None:
    records = clips(1000)
    assert put(client, records, 200) == [N] * 1000
    entries: Any = client.xrange("streamfer:{0}:clips")
    assert 200 <= len(entries) < 500
    assert Record.from_fields(entries[-1][1]) == records[-1]
    assert put(client, records[:1], 200) == [D], "trimmed, yet still remembered"


def test_what_came_under_another_number_leaves_no_hole(client: redis.Redis) -> None:
    """A later run over the same file: half of its records are there already, the others' numbers follow one another."""
    records = clips(8)
    put(client, records[1:7:2])
    again = [record.numbered(1000 + number) for number, record in enumerate(records)]
    for _ in range(2):
        # Whose reply was lost comes again, and changes nothing.
        put(client, again[:3])
        put(client, again)
    entries: Any = client.xrange("streamfer:{0}:clips")
    found = [Record.from_fields(fields) for _, fields in entries]
    assert [record.id for record in found] == [records[number].id for number in (1, 3, 5, 0, 2, 4, 6, 7)]
    assert [record.sequence for record in found[3:]] == [1000, 1001, 1002, 1003, 1004]
    # What a server forgot is sent again from its beginning: lower numbers than the marks have move nothing.
    put(client, [record.numbered(900 + number) for number, record in enumerate(records)])
    more = clips(9)[8].numbered(1008)
    put(client, [more])
    newest: Any = client.xrevrange("streamfer:{0}:clips", count=1)
    assert Record.from_fields(newest[0][1]).sequence == 1005
    door = clips(1, "door")[0].numbered(7)
    put(client, [door])
    last: Any = client.xrevrange("streamfer:{0}:clips", count=1)
    assert Record.from_fields(last[0][1]) == door, "another source's numbers stay"
    assert 0 < int(client.ttl(KEYS.moved())) <= 60


def test_entry_ids_sort_as_numbers() -> None:
    assert entry_number(b"9-10") > entry_number("9-9") > entry_number("8-99")
    assert entry_number("7") == (7, 0)
