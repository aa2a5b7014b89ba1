"""What is promised under faults: nothing acknowledged is lost, nothing is stored twice, everything is delivered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import discover
from record_examples import labelled, span

from streamfer.config import PublishConfig
from streamfer.errors import PublishError
from streamfer.publish import EmbeddedRedis, Outcome, Publisher, connect, following, subscribe
from streamfer.records import Record

CLIPS = "streamfer:{0}:clips"
# A consumer that takes effect on each record and dies by the hand of fate after the second effect.
WORKER = """
import os, sys
from streamfer.publish import subscribe
with open(sys.argv[2], "a") as effects, subscribe(
    sys.argv[1], group="g", consumer=sys.argv[3], since="start", idle_s=0.5,
    claim_idle_s=float(sys.argv[5]), claim_every_s=0.1,
) as subscription:
    for number, record in enumerate(subscription, 1):
        print(record.sequence, file=effects, flush=True)
        if number == int(sys.argv[4]):
            os.kill(os.getpid(), 9)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis.start(tmp_path / "redis") as server:
        yield server


def clips(count: int) -> list[Record]:
    return [Record.of(labelled(span(start_pts=i)), source_id="hall").numbered(i) for i in range(count)]


def stored(url: str) -> list[Record]:
    with closing(connect(url)) as client:
        entries: Any = client.xrange(CLIPS)
        return [Record.from_fields(fields) for _, fields in entries]


def pid(server: EmbeddedRedis) -> int:
    facts = discover(server.folder)
    assert facts is not None
    return int(facts["server"])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def kill(server: EmbeddedRedis) -> None:
    """Kill the server and wait until its guard has started another."""
    old = pid(server)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: pid(server) != old, "a new server")


class TestServerKilled:
    def test_while_publishing(self, server: EmbeddedRedis) -> None:
        records, published = clips(400), 0
        outcomes: list[Outcome] = []
        failures: list[Exception] = []

        def publish() -> None:
            nonlocal published
            try:
                with Publisher.open(PublishConfig(redis=server.url)) as publisher:
                    for start in range(0, len(records), 4):
                        outcomes.extend(publisher.publish_many(records[start : start + 4]))
                        published = start + 4
            except PublishError as error:
                failures.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        for mark in (100, 200):
            wait_for(lambda mark=mark: published >= mark or bool(failures), f"{mark} published")  # type: ignore[misc]
            kill(server)
        thread.join()
        assert failures == []
        assert [record.sequence for record in stored(server.url)] == list(range(400)), "once each, in order"
        assert len(outcomes) == 400

    def test_while_following(self, server: EmbeddedRedis) -> None:
        records = clips(6)
        with (
            Publisher.open(PublishConfig(redis=server.url)) as publisher,
            subscribe(server.url, idle_s=20) as subscription,
        ):
            got = []
            for index, record in enumerate(records):
                publisher.publish(record)
                got.append(next(subscription))
                if index in (1, 3):
                    kill(server)
            assert got == records

    def test_while_a_group_works(self, server: EmbeddedRedis) -> None:
        records = clips(30)
        seen: Counter[int | None] = Counter()
        with (
            Publisher.open(PublishConfig(redis=server.url)) as publisher,
            subscribe(server.url, group="g", consumer="one", since="start", idle_s=60) as subscription,
        ):
            publisher.publish_many(records)
            for number, record in enumerate(subscription):
                seen[record.sequence] += 1
                if number in (5, 20):
                    kill(server)
                if len(seen) == 30:
                    subscription.idle_s = 2
        assert set(seen) == set(range(30))
        assert max(seen.values()) <= 2, "at least once, but not over and over"
        with closing(connect(server.url)) as client:
            assert client.xpending(CLIPS, "g")["pending"] == 0

    def test_for_longer_than_the_patience(self, server: EmbeddedRedis) -> None:
        record = clips(1)[0]
        with closing(connect(server.url)) as client:
            publisher = Publisher(client, patience=0.5, url=server.url)
            found = discover(server.folder)
            assert found is not None
            os.kill(found["guard"], signal.SIGTERM)
            wait_for(lambda: discover(server.folder) is None, "the guard ends")
            with pytest.raises(PublishError, match="cannot be reached") as caught:
                publisher.publish(record)
            assert "\n" not in str(caught.value)
        server.close()
        with EmbeddedRedis.start(server.folder) as again, Publisher.open(PublishConfig(redis=again.url)) as publisher:
            assert publisher.publish(record) is Outcome.NEW


class TestServerFrozen:
    def test_a_publisher_waits_and_repeats_nothing(self, server: EmbeddedRedis) -> None:
        records = clips(20)
        with closing(connect(server.url, socket_timeout=0.3)) as client:
            publisher = Publisher(client, url=server.url)
            publisher.publish_many(records[:10])
            frozen = pid(server)
            os.kill(frozen, signal.SIGSTOP)
            # The first attempt lies in the frozen server's socket and takes effect when it wakes.
            timer = threading.Timer(1.0, os.kill, (frozen, signal.SIGCONT))
            timer.start()
            publisher.publish_many(records[10:])
            timer.join()
        wait_for(lambda: len(stored(server.url)) >= 20, "all stored")
        assert [record.sequence for record in stored(server.url)] == list(range(20))

    def test_a_group_member_loses_nothing_whose_reply_was_lost(
        self, server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(following, "_ANSWER_SECONDS", 0.4)
        records = clips(10)
        with (
            Publisher.open(PublishConfig(redis=server.url)) as publisher,
            subscribe(server.url, group="g", consumer="one", since="start", block_s=0.1, idle_s=9) as member,
        ):
            publisher.publish(records[0])
            assert next(member) == records[0]
            # With nothing left to acknowledge, the next command is the read whose reply will be lost.
            member.commit()
            publisher.publish_many(records[1:])
            frozen = pid(server)
            os.kill(frozen, signal.SIGSTOP)
            timer = threading.Timer(1.5, os.kill, (frozen, signal.SIGCONT))
            timer.start()
            got = [next(member) for _ in records[1:]]
            timer.join()
            member.commit()
            assert [record.sequence for record in got] == list(range(1, 10))


class TestConsumerKilled:
    @pytest.mark.parametrize(
        ("successor", "claim_idle"), [("worker", 60.0), ("other", 0.1)], ids=["same name", "another claims"]
    )
    def test_between_effect_and_acknowledgement(
        self, redis_url: str, tmp_path: Path, successor: str, claim_idle: float
    ) -> None:
        effects = tmp_path / "effects"
        with Publisher.open(PublishConfig(redis=redis_url)) as publisher:
            publisher.publish_many(clips(5))

        def work(consumer: str, die_after: int, idle: float) -> int:
            arguments = [redis_url, str(effects), consumer, str(die_after), str(idle)]
            return subprocess.run([sys.executable, "-c", WORKER, *arguments], check=False, timeout=240).returncode

        assert work("worker", 2, 60.0) == -signal.SIGKILL
        assert effects.read_text().split() == ["0", "1"]
        # Longer than the successor takes it for abandoned after.
        time.sleep(claim_idle if successor == "other" else 0)
        assert work(successor, 0, claim_idle) == 0
        assert effects.read_text().split() == ["0", "1", "1", "2", "3", "4"]


def test_retention_bounds_what_a_fast_publisher_leaves(redis_url: str) -> None:
    with Publisher.open(PublishConfig(redis=redis_url, maxlen=300)) as publisher:
        publisher.publish_many(clips(1500))
    kept = [record.sequence for record in stored(redis_url)]
    assert 300 <= len(kept) < 600
    assert kept == list(range(1500 - len(kept), 1500))
