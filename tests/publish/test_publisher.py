"""Publisher on a real server."""

from __future__ import annotations

import re
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from record_examples import PRODUCER, examples, labelled, span
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamfer.config import PublishConfig
from streamfer.errors import PublishError
from streamfer.publish import EmbeddedRedis, Lost, Outcome, Publisher, connect, subscribe
from streamfer.records import Record


def clips(count: int, source: str = "hall") -> list[Record]:
    return [Record.of(labelled(span(start_pts=i)), source_id=source) for i in range(count)]


def stored(client: redis.Redis, key: str = "streamfer:{0}:clips") -> list[Record]:
    entries: Any = client.xrange(key)
    return [Record.from_fields(fields) for _, fields in entries]


def test_publishing_again_changes_nothing(client: redis.Redis) -> None:
    records = clips(600)
    assert Publisher(client).publish_many(records) == [Outcome.NEW] * 600
    assert Publisher(client).publish_many(records) == [Outcome.DUPLICATE] * 600
    assert [record.id for record in stored(client)] == [record.id for record in records]


def test_sequences_count_per_source_and_rise_across_restarts(client: redis.Redis) -> None:
    first = Publisher(client)
    hall, door = clips(3), clips(2, "door")
    first.publish_many([hall[0], door[0], hall[1], door[1]])
    Publisher(client).publish(hall[2])
    numbers = {name: [r.sequence or 0 for r in stored(client) if r.subject == name] for name in ("hall", "door")}
    assert numbers["hall"][1] == numbers["hall"][0] + 1
    assert numbers["door"] == numbers["hall"][:2]
    assert numbers["hall"][2] > numbers["hall"][1]


def test_a_record_that_comes_twice_leaves_no_hole(client: redis.Redis) -> None:
    first, second, third = clips(3)
    outcomes = Publisher(client).publish_many([first, second, second, third])
    assert outcomes == [Outcome.NEW, Outcome.NEW, Outcome.DUPLICATE, Outcome.NEW]
    numbers = [record.sequence or 0 for record in stored(client)]
    assert [number - numbers[0] for number in numbers] == [0, 1, 2]


def test_a_second_run_over_the_same_looks_like_no_loss(redis_url: str, client: redis.Redis) -> None:
    """The source of a run that was stopped early is run again under its id: what is there already is passed over."""
    Publisher(client).publish_many([record for number, record in enumerate(clips(12)) if number % 3])
    run = PRODUCER.model_copy(update={"run_id": "r2"})
    later = [replace(record, data=record.data.model_copy(update={"producer": run})) for record in clips(40)]  # type: ignore[union-attr]
    told: list[Lost] = []
    with subscribe(redis_url, since="start", idle_s=0.2, on_lost=told.append) as subscription:
        Publisher(client).publish_many(later)
        assert len(list(subscription)) == 40
    assert told == []


def test_a_given_sequence_is_kept(client: redis.Redis) -> None:
    Publisher(client).publish(clips(1)[0].numbered(42))
    assert stored(client)[0].sequence == 42


def test_two_publishers_of_the_same_records(redis_url: str, client: redis.Redis) -> None:
    records = clips(200)
    outcomes: list[list[Outcome]] = []

    def work() -> None:
        with Publisher.open(PublishConfig(redis=redis_url)) as publisher:
            outcomes.append([publisher.publish(record) for record in records])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.id for record in stored(client)] == [record.id for record in records]
    assert all(set(pair) == {"new", "duplicate"} for pair in zip(*outcomes, strict=True))


def test_prefix_partitions_and_retention(client: redis.Redis) -> None:
    publisher = Publisher(client, PublishConfig(prefix="mine", partitions=4, maxlen=100, dedup_seconds=30))
    publisher.publish_many([record for name in "abcdefgh" for record in clips(1, name)])
    found: Any = client.keys("mine:*clips")
    keys = {key.decode().rpartition(":")[0] for key in found}
    assert keys <= {f"mine:{{{partition}}}" for partition in range(4)}
    assert len(keys) > 1
    assert all(0 < client.ttl(key) <= 30 for key in client.keys("mine:*:seen:*"))


def test_heartbeat(client: redis.Redis) -> None:
    publisher = Publisher(client)
    publisher.heartbeat({"hall": {"state": "online", "fps": 7.9, "old": 1}}, ttl=20)
    publisher.heartbeat({"hall": {"state": "stalled", "fps": 0.0}}, ttl=20)
    status: Any = client.hgetall("streamfer:status:hall")
    assert {key.decode() for key in status} == {"state", "fps", "updated"}
    assert status[b"state"] == b"stalled"
    assert 0 < client.ttl("streamfer:status:hall") <= 20


def test_a_refusal_is_one_line_without_the_record(client: redis.Redis) -> None:
    publisher = Publisher(client, url="redis://user:secret@host:6379/0")
    client.set("streamfer:{0}:clips", "no stream")
    with pytest.raises(PublishError, match="refuses") as caught:
        publisher.publish_many(clips(1))
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    assert "emotions" not in message


def test_a_server_that_went_away_for_good() -> None:
    client = redis.Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0))
    with pytest.raises(PublishError, match="cannot be reached"):
        Publisher(client, patience=0.2, url="redis://127.0.0.1:1/0").publish_many(clips(1))


def test_the_rights_in_the_documents_are_enough(redis_url: str, client: redis.Redis) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ACL SETUSER .*$", text, re.MULTILINE)
    users = [line.split()[2] for line in lines]
    assert users == ["publisher", "reader"]
    try:
        for line in lines:
            client.execute_command(*line.split())  # type: ignore[no-untyped-call]
        writing, reading = (redis_url.replace("unix://", f"unix://{user}:PASSWORD@") for user in users)
        records = clips(3)
        with Publisher.open(PublishConfig(redis=writing)) as publisher:
            publisher.publish_many([records[1], records[2]])
            publisher.heartbeat({"hall": {"state": "online"}})
            runs: dict[int, str] = {}
            publisher.append([records[1].to_fields()], runs)
            assert runs[0], "which run of the server it is"
        with Publisher.open(PublishConfig(redis=writing)) as publisher:
            assert publisher.publish_many(records) == [Outcome.NEW, Outcome.DUPLICATE, Outcome.DUPLICATE]
            publisher.publish_many(clips(4))
        client.xadd("streamfer:{0}:clips", {"data": "no record"})
        start: dict[str, Any] = {"since": "start", "idle_s": 0.4, "block_s": 0.1}
        with subscribe(reading, **start) as alone, subscribe(reading, group="g", claim_every_s=0.1, **start) as member:
            assert len(list(alone)) == len(list(member)) == 4
            assert member.skipped == 1
        assert client.xlen("streamfer:{0}:dead") == 1
        assert client.hgetall("streamfer:{0}:clips:read:g"), "how far the group has read"
        for _ in range(2):
            # What it left unfinished comes again.
            with subscribe(reading, group="h", consumer="one", **start) as member:
                assert next(member).id == records[1].id
        # Who may not ask which server answers reads all the same.
        client.execute_command("ACL SETUSER", "reader", "-info")  # type: ignore[no-untyped-call]
        with subscribe(reading, since="10m", idle_s=0.2) as later:
            assert len(list(later)) == 4
    finally:
        client.acl_deluser(*users)


def test_open_on_the_embedded_server() -> None:
    with Publisher.open(PublishConfig()) as publisher:
        first = publisher.publish(examples()["gap.v1"])
    with Publisher.open(PublishConfig()) as publisher:
        again = publisher.publish(examples()["gap.v1"])
    publisher.close()
    assert (first, again) == (Outcome.NEW, Outcome.DUPLICATE)


@pytest.mark.parametrize(("policy", "what"), [("allkeys-random", "records"), ("volatile-lru", "marks")])
def test_a_server_that_throws_away_is_told(tmp_path: Path, policy: str, what: str) -> None:
    with EmbeddedRedis.start(tmp_path) as server, Publisher.open(PublishConfig(redis=server.url)) as publisher:
        publisher.publish_many(clips(200))
        assert publisher.evicted() == ""
        with closing(connect(server.url)) as client:
            client.config_set("maxmemory-policy", policy)
            client.config_set("maxmemory", client.info("memory")["used_memory"] - 20_000)
            client.config_set("maxmemory", 0)
        assert f"throws away {what}" in publisher.evicted()
        assert publisher.evicted() == ""
