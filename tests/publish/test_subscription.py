"""Following records on a real server, alone."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import redis
from command_line import wait_for
from published import CLIPS, DEAD, IDLE, clips, entries, later
from record_examples import examples

from streamfer.config import PublishConfig
from streamfer.errors import ConfigError, PublishError
from streamfer.publish import Lost, Publisher, connect, subscribe
from streamfer.records import RawDocument, Record


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
        publisher = Publisher(client, PublishConfig(partitions=3))
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

    def test_what_no_number_shows_is_counted_by_a_newer_server(
        self, newer_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of a source that was never read; what its numbers show of another is not told twice.

        An entry that was deleted after it was read is no older state of the stream.
        """
        told: list[Lost] = []
        settings: dict[str, Any] = {"idle_s": 1, "block_s": 0.1, "on_lost": told.append}

        def cut() -> None:
            client.client_kill_filter(_type="normal", skipme=True)
            publisher.publish(clips(46)[45])

        with closing(connect(newer_url)) as client, subscribe(newer_url, **settings) as subscription:
            publisher = Publisher(client)
            publisher.publish_many(clips(40))
            assert len(list(subscription)) == 40
            publisher.publish_many(clips(10, "door"))
            publisher.publish_many(clips(44)[40:])
            client.xtrim(CLIPS, maxlen=2, approximate=False)
            assert [record.id for record in subscription] == [record.id for record in clips(44)[42:]]
            assert [(lost.subject, lost.count) for lost in told] == [("hall", 2), ("", 10)]
            publisher.publish_many(clips(45)[44:])
            assert len(list(subscription)) == 1
            with subscribe(newer_url, since="start", **settings) as late:
                assert len(list(late)) == 3
            client.xdel(CLIPS, subscription.places[CLIPS])
            subscription.idle_s = 60
            timer = threading.Timer(0.3, cut)
            timer.start()
            assert next(subscription).sequence == 45
            timer.join()  # its answer may come after what it published
        assert [lost.count for lost in told] == [2, 10]
        assert "rewound" not in caplog.text

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

    def test_what_is_older_than_was_asked_for_stays_away_where_nothing_newer_is(
        self, redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        publisher = Publisher(client)
        publisher.publish_many(clips(3))
        moment: Any = client.time()
        since = datetime.fromtimestamp(moment[0] + 1, UTC)
        with subscribe(redis_url, since=since, idle_s=IDLE, block_s=0.05) as subscription:
            assert list(subscription) == []
            wait_for(lambda: client.time()[0] > moment[0] + 1, "the moment")
            publisher.publish_many(clips(4)[3:])
            assert [record.id for record in subscription] == [clips(4)[3].id]
        assert "rewound" not in caplog.text

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

    def test_who_was_served_waits_for_rights_and_others_do_not(self, redis_url: str, client: redis.Redis) -> None:
        rights = partial(client.execute_command, "ACL SETUSER default")
        with subscribe(redis_url, idle_s=IDLE) as one:
            rights("-@read")
            try:
                assert list(one) == []
                with pytest.raises(PublishError, match="denies a command"):
                    subscribe(redis_url)
            finally:
                rights("+@all")
            (record,) = clips(1)
            Publisher(client).publish(record)
            assert next(one) == record

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
