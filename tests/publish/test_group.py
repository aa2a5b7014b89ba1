"""Following records on a real server as a member of a consumer group."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

import pytest
import redis
from published import CLIPS, DEAD, IDLE, clips, entries, pending
from redis import exceptions as faults

from streamfer.config import PublishConfig
from streamfer.errors import ConfigError, PublishError
from streamfer.publish import Lost, Publisher, Subscription, connect, subscribe
from streamfer.publish.group import GroupMember
from streamfer.publish.reading import Start
from streamfer.records import Record


def member(url: str, consumer: str | None = "one", **settings: Any) -> Subscription:
    return subscribe(url, **{"group": "g", "consumer": consumer, "since": "start", "idle_s": IDLE, **settings})


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

    def test_many_are_acknowledged_together(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(20)
        Publisher(client).publish_many(records)
        with member(redis_url, manual_commit=True) as one:
            got = [next(one) for _ in range(8)]
            assert pending(client) >= 8, "asking for the next acknowledges nothing"
            one.commit()
            got += [next(one) for _ in range(5)]
        with member(redis_url, manual_commit=True) as one:
            again = list(one)
            assert got[:8] + again == records
            assert got[8:] == again[:5], "what was not committed comes again"
            one.idle_s = 0
            assert next(one, None) is None
            one.commit()
        assert pending(client) == 0

    def test_what_waits_for_its_commit_is_not_handed_out_twice(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(40)
        Publisher(client).publish_many(records)
        with member(redis_url, manual_commit=True, claim_idle_s=0.2, claim_every_s=60) as one:
            got = [next(one) for _ in range(20)]
            # Some may be with another member by now: all that is unfinished is read again.
            threading.Event().wait(0.3)
            assert got + list(one) == records
            one.commit()
            assert pending(client) == 0

    def test_batches_bury_no_record_for_their_number_of_tries(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(3)
        Publisher(client).publish_many(records)
        for _ in range(8):
            with member(redis_url, manual_commit=True) as one:
                assert list(one) == records
        assert client.xlen(DEAD) == 0

    def test_a_record_can_be_rejected_among_others(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(3)
        Publisher(client).publish_many(records)
        with member(redis_url, manual_commit=True) as one:
            got = list(one)
            one.reject(got[1], "nobody wants it")
            assert client.xlen(DEAD) == 0
            one.commit()
            with pytest.raises(ConfigError, match="is committed"):
                one.reject(got[1], "nobody wants it")
        ((_, dead),) = entries(client, DEAD)
        assert Record.from_fields(dead) == records[1]
        assert dead[b"dead_reason"] == b"nobody wants it"
        assert pending(client) == 0

    def test_only_groups_have_something_to_commit(self, redis_url: str) -> None:
        with pytest.raises(ConfigError, match="in a group alone"):
            subscribe(redis_url, manual_commit=True)

    def test_abandoned_entries_are_claimed(self, redis_url: str, client: redis.Redis) -> None:
        records = clips(3)
        Publisher(client).publish_many(records)
        with member(redis_url, "gone") as gone:
            next(gone)
        with member(redis_url, "two", claim_idle_s=30, claim_every_s=0.05) as two:
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
        Publisher(client, PublishConfig(maxlen=100)).publish_many(clips(3))
        with member(redis_url, "one") as one:
            next(one)
        client.xtrim(CLIPS, maxlen=1, approximate=False)
        with member(redis_url, consumer, claim_idle_s=0.05, claim_every_s=0.05, idle_s=1) as again:
            assert [record.sequence for record in again] == [2]
            assert again.lost == 2
        assert pending(client) == 0

    def test_a_newer_server_names_what_was_trimmed_with_a_dead_member(self, newer_url: str) -> None:
        told: list[Lost] = []
        with closing(connect(newer_url)) as client:
            Publisher(client).publish_many(clips(3))
            with member(newer_url, "gone") as gone:
                next(gone)
            client.xtrim(CLIPS, maxlen=1, approximate=False)
            with member(newer_url, "two", claim_idle_s=0.05, claim_every_s=0.05, idle_s=1, on_lost=told.append) as two:
                assert [record.sequence for record in two] == [2]
                assert two.lost == 2
            assert pending(client) == 0
        assert [(lost.stream, lost.count) for lost in told] == [(CLIPS, 2)]

    def test_filtered_records_are_acknowledged(self, redis_url: str, client: redis.Redis) -> None:
        Publisher(client).publish_many([*clips(2), *clips(1, "door")])
        with member(redis_url, sources=["door"]) as one:
            assert [record.subject for record in one] == ["door"]
        assert pending(client) == 0

    def test_a_server_that_came_back_empty(
        self, redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Full at that, too: told once; and what was done with, and is sent again, is not handed out again."""
        records = clips(2)
        Publisher(client).publish(records[0])
        with member(redis_url, idle_s=1) as one:
            assert next(one) == records[0]
            client.flushall()
            client.config_set("maxmemory", 1)
            try:
                assert list(one) == []
            finally:
                client.config_set("maxmemory", 0)
            Publisher(client).publish_many(records)
            assert list(one) == [records[1]]
        assert caplog.text.count("group_lost") == 1

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
        one, two = (GroupMember(client, [CLIPS], "g", name, Start("start")) for name in ("one", "two"))
        Publisher(client).publish_many(clips(8))
        for reader in (one, two):
            reader.prepare()
            reader.fetch(10)
        Publisher(client).publish_many(clips(40)[8:])

        class Overtaken:
            """The client as the first member has it: its reply comes when the second one is done."""

            def __getattr__(self, name: str) -> Any:
                return getattr(client, name)

            def xreadgroup(self, *words: Any, **more: Any) -> Any:
                reply = client.xreadgroup(*words, **more)
                two.fetch(10)
                return reply

        one.client = Overtaken()
        one.fetch(10)
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
