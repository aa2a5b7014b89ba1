"""Following records on a real server, alone and in consumer groups."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from record_examples import examples, labelled, span
from redis import exceptions as faults
from servers import Node, newer_server

from streamfer.config import PublishConfig
from streamfer.errors import ConfigError, PublishError
from streamfer.publish import Lost, Publisher, Retention, Subscription, connect, subscribe
from streamfer.publish.group import GroupMember
from streamfer.publish.reading import Start
from streamfer.records import RawDocument, Record

CLIPS = "streamfer:{0}:clips"
DEAD = "streamfer:{0}:dead"
IDLE = 0.3


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with closing(connect(redis_url)) as client:
        yield client


def clips(count: int, source: str = "hall") -> list[Record]:
    return [Record.of(labelled(span(start_pts=i)), source_id=source).numbered(i) for i in range(count)]


def member(url: str, consumer: str | None = "one", **settings: Any) -> Subscription:
    return subscribe(url, **{"group": "g", "consumer": consumer, "since": "start", "idle_s": IDLE, **settings})


def later(kind: str, text: str) -> Any:
    """Fields of a record that a later streamfer wrote."""
    return {**clips(1)[0].to_fields(), "ce_id": "later", "ce_type": f"streamfer.{kind}", "data": text}


def entries(client: redis.Redis, stream: str) -> Any:
    """Entries of a stream, oldest first, as pairs of id and fields."""
    return client.xrange(stream)


def run(steps: Any, client: redis.Redis, reply: Any = None) -> None:
    """Carry out what a reader asks for, from the answer to its last command on."""
    while True:
        try:
            command = steps.throw(reply) if isinstance(reply, Exception) else steps.send(reply)
        except StopIteration:
            return
        try:
            reply = command(client)
        except faults.RedisError as error:
            reply = error


def pending(client: redis.Redis) -> int:
    return int(client.xpending(CLIPS, "g")["pending"])


class TestAlone:
    def test_new_begins_when_subscribe_returns(self, redis_url: str, client: redis.Redis) -> None:
        records, publisher = clips(4), Publisher(client)
        publisher.publish_many(records[:2])
        with subscribe(redis_url, idle_s=IDLE) as subscription:
            publisher.publish_many(records[2:])
            assert list(subscription) == records[2:]

    def test_new_on_a_stream_that_does_not_exist_yet(self, redis_url: str, client: redis.Redis) -> None:
        with subscribe(redis_url, idle_s=IDLE) as subscription:
            Publisher(client).publish_many(clips(1))
            assert list(subscription) == clips_equal(client)

    def test_start_reads_everything_in_order(self, redis_url: str, client: redis.Redis) -> None:
        """Two hundred clips fill several batches; the state published between them keeps its place."""
        state, records = examples()["source.state.v1"], clips(200)
        publisher = Publisher(client)
        publisher.publish_many([*records[:150], state])
        publisher.publish_many(records[150:])
        with subscribe(redis_url, since="start", idle_s=IDLE) as subscription:
            got = list(subscription)
        assert [r.id for r in got if r != state] == [r.id for r in records]
        ids = [entry for entry, _ in entries(client, "streamfer:{0}:sources")]
        before = sum(entry <= ids[0] for entry, _ in entries(client, CLIPS))
        assert abs(got.index(state) - before) <= 1

    def test_resuming_from_a_place(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(5)
        Publisher(client).publish_many(records)
        with subscribe(redis_url, since="start") as subscription:
            assert [next(subscription), next(subscription)] == records[:2]
            place = subscription.places[CLIPS]
        with subscribe(redis_url, streams=("clips",), since=place, idle_s=IDLE) as subscription:
            assert list(subscription) == records[2:]

    def test_streams_and_sources_filter(self, redis_url: str, client: redis.Redis) -> None:
        hall, door = clips(2), clips(2, "door")
        publisher = Publisher(client, partitions=3)
        publisher.publish_many([hall[0], door[0], hall[1], door[1], *examples().values()])
        settings: dict[str, Any] = {"since": "start", "idle_s": IDLE, "partitions": 3}
        with subscribe(redis_url, streams=("clips",), sources=["door"], **settings) as subscription:
            assert list(subscription) == door
        with subscribe(redis_url, streams=("captions", "sources"), **settings) as subscription:
            assert {record.data.kind for record in subscription} == {"clip.captioned.v1", "source.state.v1"}

    def test_entries_that_are_no_records_are_skipped(self, redis_url: str, client: redis.Redis) -> None:
        good = clips(2)
        publisher = Publisher(client)
        publisher.publish(good[0])
        client.xadd(CLIPS, {"hello": "world"})
        client.xadd(CLIPS, {b"ce_id": b"\xff\xfe"})
        client.xadd(CLIPS, later("clip.labelled.v2", "no json"))
        publisher.publish(good[1])
        with subscribe(redis_url, since="start", idle_s=IDLE) as subscription:
            assert list(subscription) == good
            assert subscription.skipped == 3
        assert client.xlen(CLIPS) == 5

    def test_records_of_later_versions_come_as_they_are(self, redis_url: str, client: redis.Redis) -> None:
        client.xadd(CLIPS, later("clip.labelled.v2", '{"face":{"top":"joy"},"producer":{"run_id":"r"}}'))
        for settings in ({}, {"group": "g"}):
            with subscribe(redis_url, since="start", idle_s=IDLE, **settings) as subscription:  # type: ignore[arg-type]
                (record,) = subscription
                assert (subscription.skipped, client.exists(DEAD)) == (0, 0)
            assert isinstance(record.data, RawDocument)
            assert (record.type, record.subject, record.run_id) == ("streamfer.clip.labelled.v2", "hall", "r")
            assert record.data.fields["face"] == {"top": "joy"}
            assert Record.from_json(record.to_json()).to_fields() == record.to_fields(), "and may be passed on"

    @pytest.mark.parametrize("how", ["ago", "moment", "text"])
    def test_since_a_time(self, redis_url: str, client: redis.Redis, how: str) -> None:
        """Two entries of two hours ago, and two of now."""
        seconds, _ = client.time()
        records = clips(4)
        for number, record in enumerate(records):
            fields: Any = record.to_fields()
            client.xadd(CLIPS, fields, id=f"{(seconds - (7200 if number < 2 else 0)) * 1000}-{number}")
        moment = datetime.fromtimestamp(seconds - 3600, UTC)
        since: Any = {"ago": "1.5h", "moment": moment, "text": moment.isoformat()}[how]
        for settings in ({}, {"group": how}):
            with subscribe(redis_url, since=since, idle_s=IDLE, **settings) as subscription:  # type: ignore[arg-type]
                assert list(subscription) == records[2:]
                assert subscription.lost == 0

    def test_a_known_place_that_is_gone_is_told(self, redis_url: str, client: redis.Redis) -> None:
        records, told = clips(9), list[Lost]()
        Publisher(client).publish_many(records)
        places = [number.decode() for number, _ in entries(client, CLIPS)]
        client.xtrim(CLIPS, maxlen=4, approximate=False)
        settings: dict[str, Any] = {"streams": ("clips",), "idle_s": IDLE, "on_lost": told.append}
        with subscribe(redis_url, since=places[5], **settings) as subscription:
            assert list(subscription) == records[6:]
        assert told == []
        with subscribe(redis_url, since=places[2], **settings) as subscription:
            assert list(subscription) == records[5:]
        ((stream, count, why),) = [(lost.stream, lost.count, lost.why) for lost in told]
        assert (stream, count) == (CLIPS, 0)
        assert places[2] in why

    def test_what_comes_a_second_time_is_not_handed_out_again(self, redis_url: str, client: redis.Redis) -> None:
        """A failover forgets entries that were read, and the publisher sends them again, under new ids."""
        records = clips(4)
        with subscribe(redis_url, idle_s=IDLE) as subscription:
            Publisher(client).publish_many(records[:3])
            assert list(subscription) == records[:3]
            for _, fields in entries(client, CLIPS)[1:]:
                client.xadd(CLIPS, fields)
            Publisher(client).publish(records[3])
            assert list(subscription) == records[3:]
            assert subscription.lost == 0

    def test_waiting_reads_wake_up(self, redis_url: str, client: redis.Redis) -> None:
        with subscribe(redis_url, block_s=4.0) as subscription:
            timer = threading.Timer(0.3, Publisher(client).publish_many, [clips(1)])
            timer.start()
            assert next(subscription).subject == "hall"
            timer.join()

    def test_quiet_longer_than_a_block(self, redis_url: str, client: redis.Redis) -> None:
        with subscribe(redis_url, block_s=0.05, idle_s=5) as subscription:
            timer = threading.Timer(0.5, Publisher(client).publish_many, [clips(1)])
            timer.start()
            assert next(subscription).subject == "hall"
            timer.join()

    def test_a_closed_subscription_ends(self, redis_url: str) -> None:
        subscription = subscribe(redis_url)
        subscription.close()
        subscription.close()
        assert list(subscription) == []

    def test_what_was_trimmed_before_it_was_read_is_told(self, redis_url: str, client: redis.Redis) -> None:
        told: list[Lost] = []
        with subscribe(redis_url, idle_s=1, block_s=0.1, on_lost=told.append) as subscription:
            publisher = Publisher(client)
            publisher.publish_many(clips(40))
            assert next(subscription)
            rest = [next(subscription) for _ in range(39)]
            publisher.publish_many([record for number, record in enumerate(clips(80)) if number >= 40])
            client.xtrim(CLIPS, maxlen=10, approximate=False)
            assert [record.id for record in subscription] == [record.id for record in clips(80)[70:]]
            assert len(rest) == 39
        assert [(lost.subject, lost.count) for lost in told] == [("hall", 30)]
        assert subscription.lost == 30

    def test_a_stream_that_was_restored_is_followed_and_nothing_comes_twice(
        self, redis_url: str, client: redis.Redis
    ) -> None:
        """A backup: fewer entries, lower ids than were read; XREAD alone would wait for ever."""
        publisher = Publisher(client)
        with subscribe(redis_url, idle_s=10, block_s=0.1) as subscription:
            publisher.publish_many(clips(6))
            assert len([next(subscription) for _ in range(6)]) == 6
            entries: Any = client.xrange(CLIPS)
            client.delete(CLIPS)
            for number, (_, fields) in enumerate(entries[:4], 1):
                client.xadd(CLIPS, fields, id=f"{number}-0")
            new = [fields for _, fields in entries[:1]]
            fresh = Record.from_fields(new[0])
            later: Any = replace(fresh, id="new", sequence=(fresh.sequence or 0) + 6).to_fields()
            client.xadd(CLIPS, later, id="9-0")
            assert next(subscription).id == "new"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"since": "yesterday"},
            {"since": "$"},
            {"since": "2026-11-27T08:00"},
            {"since": datetime(2026, 11, 27)},
            {"streams": ["faces"]},
            {"group": "", "consumer": "a"},
        ],
    )
    def test_wrong_arguments(self, redis_url: str, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            subscribe(redis_url, **wrong)

    def test_unreachable(self) -> None:
        with pytest.raises(PublishError, match="cannot be reached"):
            subscribe("redis://127.0.0.1:1/0")

    def test_the_embedded_server_is_found(self) -> None:
        with Publisher.open(PublishConfig()) as publisher, subscribe(idle_s=IDLE) as subscription:
            record = publisher_record = clips(1, "embedded")[0]
            publisher.publish(publisher_record)
            assert list(subscription) == [record]
        with subscribe(since="start", idle_s=IDLE, sources=["embedded"]) as subscription:
            assert list(subscription) == [record], "and again when nothing else runs"


def clips_equal(client: redis.Redis) -> list[Record]:
    entries: Any = client.xrange(CLIPS)
    return [Record.from_fields(fields) for _, fields in entries]


class TestGroup:
    def test_members_share_the_records(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(40)
        Publisher(client).publish_many(records)
        with member(redis_url, "one") as one, member(redis_url, "two") as two:
            got = [next(one), next(two)]
            got += [*one, *two]
        assert sorted(r.sequence or 0 for r in got) == list(range(40))
        assert pending(client) == 0

    def test_acknowledged_only_when_the_next_is_asked_for(self, redis_url: str, client: redis.Redis) -> None:
        Publisher(client).publish_many(clips(3))
        with member(redis_url) as one:
            next(one)
            next(one)
            assert pending(client) == 2
            one.commit()
            one.commit()
            assert pending(client) == 1

    def test_own_unfinished_entries_come_first(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(4)
        publisher = Publisher(client)
        publisher.publish_many(records[:3])
        with member(redis_url) as one:
            assert [next(one), next(one)] == records[:2]
        publisher.publish(records[3])
        with member(redis_url) as one:
            assert list(one) == records[1:]

    def test_abandoned_entries_are_claimed(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(3)
        Publisher(client).publish_many(records)
        with member(redis_url, "gone") as gone:
            next(gone)
        with member(redis_url, "two", claim_idle_s=30) as two:
            assert list(two) == [], "they may still be at work on them"
        with member(redis_url, "two", claim_idle_s=0.05, claim_every_s=0.05, idle_s=1) as two:
            assert next(two) == records[0]
            attempts: Any = client.xpending_range(CLIPS, "g", "-", "+", 9)
            assert [entry["times_delivered"] for entry in attempts] == [2, 1, 1], "claiming is no attempt"
            assert list(two) == records[1:]
        assert pending(client) == 0

    def test_a_slow_consumer_does_not_repeat_what_was_taken_from_it(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(5)
        Publisher(client).publish_many(records)
        with member(redis_url, "slow", claim_idle_s=0.2, claim_every_s=60) as slow:
            first = next(slow)
            threading.Event().wait(0.4)
            with member(redis_url, "fast", claim_idle_s=0.2, claim_every_s=0.05, idle_s=1) as fast:
                taken = list(fast)
            rest = list(slow)
        assert first == records[0]
        assert taken == records
        assert rest == []

    def test_an_entry_that_kills_its_consumer_goes_to_the_dead(self, redis_url: str, client: redis.Redis) -> None:
        """Five attempts on the first one; those behind it have lost none of theirs."""
        records = clips(3)
        Publisher(client).publish_many(records)
        for _ in range(5):
            with member(redis_url) as crashing:
                assert next(crashing) == records[0]
        with member(redis_url) as one:
            assert list(one) == records[1:]
            assert one.skipped == 1
        ((_, dead),) = entries(client, DEAD)
        assert Record.from_fields(dead) == records[0]
        assert dead[b"dead_group"] == b"g"
        assert dead[b"dead_stream"] == CLIPS.encode()
        assert b"delivered 5 times" in dead[b"dead_reason"]
        assert pending(client) == 0

    def test_malformed_entries_go_to_the_dead(self, redis_url: str, client: redis.Redis) -> None:
        client.xadd(CLIPS, {"hello": "world"})
        Publisher(client).publish_many(clips(1))
        with member(redis_url) as one:
            assert list(one) == clips_equal_last(client)
        ((_, dead),) = entries(client, DEAD)
        assert dead[b"hello"] == b"world"
        assert pending(client) == 0

    @pytest.mark.parametrize("consumer", ["one", "two"])
    def test_pending_entries_that_were_trimmed_count_as_lost(
        self, redis_url: str, client: redis.Redis, consumer: str
    ) -> None:
        Publisher(client, retention=Retention(max_entries=100)).publish_many(clips(3))
        with member(redis_url, "one") as one:
            next(one)
        client.xtrim(CLIPS, maxlen=1, approximate=False)
        with member(redis_url, consumer, claim_idle_s=0.05, claim_every_s=0.05, idle_s=1) as again:
            assert [record.sequence for record in again] == [2]
            assert again.lost == 2
        assert pending(client) == 0

    def test_a_newer_server_names_what_was_trimmed_with_a_dead_member(self, tmp_path: Path) -> None:
        program = newer_server()
        if program is None:
            pytest.skip("no redis-server of version 7 or later on the path")
        node, told = Node(tmp_path, "--save", "", program=program), list[Lost]()
        url = f"redis://127.0.0.1:{node.port}"
        try:
            with closing(connect(url)) as client:
                Publisher(client).publish_many(clips(3))
                with member(url, "gone") as gone:
                    next(gone)
                client.xtrim(CLIPS, maxlen=1, approximate=False)
                with member(url, "two", claim_idle_s=0.05, claim_every_s=0.05, idle_s=1, on_lost=told.append) as two:
                    assert [record.sequence for record in two] == [2]
                    assert two.lost == 2
                assert pending(client) == 0
        finally:
            node.kill()
        assert [(lost.stream, lost.count) for lost in told] == [(CLIPS, 2)]

    def test_filtered_records_are_acknowledged(self, redis_url: str, client: redis.Redis) -> None:
        Publisher(client).publish_many([*clips(2), *clips(1, "door")])
        with member(redis_url, sources=["door"]) as one:
            assert [record.subject for record in one] == ["door"]
        assert pending(client) == 0

    def test_a_server_that_came_back_empty(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(2)
        Publisher(client).publish(records[0])
        with member(redis_url, idle_s=2) as one:
            assert next(one) == records[0]
            client.flushall()
            Publisher(client).publish(records[1])
            assert next(one) == records[1]

    def test_a_nameless_member_leaves_no_trace(self, redis_url: str, client: redis.Redis) -> None:
        Publisher(client).publish_many(clips(2))
        with member(redis_url, None) as one:
            assert len(list(one)) == 2
        assert client.xinfo_consumers(CLIPS, "g") == []

    def test_a_nameless_member_with_unfinished_entries_stays(self, redis_url: str, client: redis.Redis) -> None:
        """Removing it would remove its pending entries, and nobody would ever get them again."""
        records = clips(2)
        Publisher(client).publish_many(records)
        with member(redis_url, None) as one:
            next(one)
        assert pending(client) == 2
        with member(redis_url, "two", claim_idle_s=0.05, claim_every_s=0.05, idle_s=1) as two:
            assert list(two) == records

    def test_what_was_trimmed_unread_is_told(self, redis_url: str, client: redis.Redis) -> None:
        """Two members read the first forty; of the next seventy, thirty are trimmed while none is there."""
        records, told = clips(110), list[Lost]()
        publisher = Publisher(client)
        publisher.publish_many(records[:40])
        with member(redis_url, "one") as one, member(redis_url, "two") as two:
            assert len([next(one), next(two), *one, *two]) == 40
        publisher.publish_many(records[40:])
        client.xtrim(CLIPS, maxlen=40, approximate=False)
        with member(redis_url, "one", on_lost=told.append) as one, member(redis_url, "two", on_lost=told.append) as two:
            got = [next(one), next(two), *one, *two]
            assert one.lost + two.lost == 30
        assert sorted(record.sequence or 0 for record in got) == list(range(70, 110))
        assert [(lost.stream, lost.subject, lost.count) for lost in told] == [(CLIPS, "hall", 30)]

    def test_what_another_member_has_is_not_lost(self, redis_url: str, client: redis.Redis) -> None:
        """Members take turns, so each sees holes; nothing is missing, though all that was read is trimmed."""
        publisher = Publisher(client)
        with member(redis_url, "one", idle_s=5) as one, member(redis_url, "two", idle_s=5) as two:
            for record in clips(20):
                publisher.publish(record)
                assert next(two if (record.sequence or 0) % 3 else one) == record
                client.xtrim(CLIPS, maxlen=1, approximate=False)
            assert (one.lost, two.lost) == (0, 0)

    def test_members_that_tell_later_what_they_read(self, redis_url: str, client: redis.Redis) -> None:
        """The second member reads on, and tells how far, before the first has told anything."""
        one, two = (GroupMember([CLIPS], "g", name, Start("start")) for name in ("one", "two"))
        Publisher(client).publish_many(clips(8))
        for reader in (one, two):
            run(reader.prepare(), client)
            run(reader.fetch(10), client)
        Publisher(client).publish_many(clips(40)[8:])
        steps = one.fetch(10)
        reply = next(steps)(client)  # type: ignore[operator]
        run(two.fetch(10), client)
        run(steps, client, reply)
        assert [len(reader.buffer) for reader in (one, two)] == [8 + 16, 16]
        assert (one.losses, two.losses) == ([], [])

    def test_other_refusals_end_it(self, redis_url: str, client: redis.Redis) -> None:
        with member(redis_url) as one:
            client.delete(CLIPS)
            client.set(CLIPS, "no stream")
            with pytest.raises(PublishError, match="WRONGTYPE"):
                next(one)
            client.delete(CLIPS)


def clips_equal_last(client: redis.Redis) -> list[Record]:
    entries: Any = client.xrange(CLIPS)
    return [Record.from_fields(entries[-1][1])]


def test_commit_says_when_it_failed(redis_url: str, client: redis.Redis) -> None:
    Publisher(client).publish_many(clips(1))
    with member(redis_url) as one:
        next(one)
        client.delete(CLIPS)
        client.set(CLIPS, "no stream")
        with pytest.raises(PublishError) as caught:
            one.commit()
        assert isinstance(caught.value.__cause__, faults.ResponseError)
        client.delete(CLIPS)
