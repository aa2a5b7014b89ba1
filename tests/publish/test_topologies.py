"""Redis as a Cluster and under Sentinels, real ones: failovers and moved slots lose, double and disorder nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from record_examples import labelled, span
from servers import Certificate, Cluster, Node, Watched, secure_server, wait_for

from streamfer.config import PublishConfig
from streamfer.errors import PublishError
from streamfer.publish import Delivery, Keys, Lost, Publisher, Subscription, subscribe, subscribe_async
from streamfer.records import Record

FAILOVER = "another server took over (failover), with an older state"
PARTITIONS = 6
SOURCES = [f"hall-{number}" for number in range(12)]


def clips(first: int, last: int, sources: list[str] = SOURCES) -> list[Record]:
    return [
        Record.of(labelled(span(start_pts=number, end_pts=number + 9)), source_id=source)
        for number in range(first, last)
        for source in sources
    ]


def by_source(records: list[Record]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in records:
        found.setdefault(record.subject, []).append(record.id)
    return found


class Listener:
    """A subscriber in a thread; what it got, and what it was told to be lost."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.got: list[Record] = []
        self.told: list[Any] = []
        self._wanted = True
        words = {"idle_s": 0.5, "since": "start", "block_s": 0.2, "on_lost": self.told.append, **settings}
        self._subscription: Subscription = subscribe(url, **words)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def expect(self, records: list[Record], *, repeated: bool = False) -> None:
        """All came in the order of their sources, once each unless ``repeated``, and nothing was told to be lost."""
        try:
            wait_for(lambda: len({record.id for record in self.got}) >= len(records), f"{len(records)} records")
            time.sleep(0.3)
        finally:
            self._wanted = False
            self._thread.join()
            self._subscription.close()
        got = list({record.id: record for record in self.got}.values()) if repeated else self.got
        assert by_source(got) == by_source(records)
        assert self.told == []

    def _listen(self) -> None:
        while self._wanted:
            self.got.extend(self._subscription)


class Yard:
    """A source of the first partition that nobody sends again, and who reads it when told: one alone and a group."""

    def __init__(self, url: str) -> None:
        settings: dict[str, Any] = {"prefix": "yard", "partitions": PARTITIONS}
        self._records = iter(clips(0, 9, ["yard-4"]))
        self._publisher = Publisher.open(PublishConfig(redis=url, **settings))
        self.told: list[tuple[int, str]] = []
        settings |= {"since": "start", "block_s": 0.2, "on_lost": lambda lost: self.told.append((lost.count, lost.why))}
        self._subscriptions = [subscribe(url, group=group, **settings) for group in (None, "late")]

    def publish(self, count: int) -> list[Record]:
        records = [next(self._records) for _ in range(count)]
        self._publisher.publish_many(records)
        return records

    def publish_and_read(self) -> None:
        (record,) = self.publish(1)
        assert [next(subscription).id for subscription in self._subscriptions] == [record.id] * 2

    def close(self) -> None:
        for one in (*self._subscriptions, self._publisher):
            one.close()


def deliver(url: str, tmp_path: Path) -> Delivery:
    # What is kept to be sent again is kept for longer than a busy machine takes to kill a server.
    words: dict[str, Any] = {"spool": tmp_path / "spool", "partitions": PARTITIONS, "resend_seconds": 60}
    return Delivery.open(PublishConfig(redis=url, **words))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.kill()


@pytest.fixture
def cluster(nodes: Cluster) -> Cluster:
    for node in nodes.nodes:
        node.client.flushall()
    return nodes


class TestCluster:
    def test_several_partitions(self, cluster: Cluster) -> None:
        owners = {cluster.owner(Keys(partitions=PARTITIONS).stream("clips", number)) for number in range(PARTITIONS)}
        assert len(owners) == 3, "all nodes have a part"
        records = clips(0, 20)
        with Publisher.open(PublishConfig(redis=cluster.url, partitions=PARTITIONS)) as publisher:
            assert {outcome.value for outcome in publisher.publish_many(records)} == {"new"}
            assert {outcome.value for outcome in publisher.publish_many(records)} == {"duplicate"}
            publisher.heartbeat({"hall-1": {"state": "online"}})
        settings: dict[str, Any] = {"partitions": PARTITIONS, "since": "start", "idle_s": 1}
        with subscribe(cluster.url, **settings) as subscription:
            assert by_source(list(subscription)) == by_source(records)
        with (
            subscribe(cluster.url, group="g", consumer="one", **settings) as one,
            subscribe(cluster.url, group="g", consumer="two", **settings) as two,
        ):
            assert sorted(record.id for record in [next(one), next(two), *one, *two]) == sorted(
                record.id for record in records
            )

        async def follow() -> list[Record]:
            async with subscribe_async(cluster.url, **settings) as subscription:
                return [record async for record in subscription]

        assert by_source(asyncio.run(follow())) == by_source(records)

    def test_what_comes_is_handed_out_soon(self, cluster: Cluster) -> None:
        with Publisher.open(PublishConfig(redis=cluster.url, partitions=PARTITIONS)) as publisher:
            took = []
            with subscribe(cluster.url, partitions=PARTITIONS, idle_s=90, block_s=60) as subscription:
                for record in clips(0, 2):
                    publisher.publish(record)
                    began = time.monotonic()
                    assert next(subscription).id == record.id
                    took.append(time.monotonic() - began)
        # Whoever waited for another node to have something would wait a whole block.
        assert max(took) < 30

    @pytest.mark.parametrize("group", [None, "movers"])
    def test_a_slot_that_moves(self, cluster: Cluster, tmp_path: Path, group: str | None) -> None:
        """The slots of two partitions go to other nodes and back while records come."""
        records = clips(0, 120)
        with deliver(cluster.url, tmp_path) as delivery:
            listener = Listener(cluster.url, partitions=PARTITIONS, group=group)
            feeder = threading.Thread(target=feed, args=(delivery, records))
            feeder.start()
            for partition in (0, 3, 0):
                key = Keys(partitions=PARTITIONS).stream("clips", partition)
                to = next(node for node in cluster.nodes if node is not cluster.owner(key))
                cluster.move(key, to, between=lambda: time.sleep(0.3))
            feeder.join()
            wait_for(lambda: not delivery.waiting, "all published")
            listener.expect(records)

    def test_a_plain_url_says_what_to_write(self, cluster: Cluster) -> None:
        other = next(node for node in cluster.nodes if node is not cluster.owner("streamfer:{0}:clips"))
        with pytest.raises(PublishError, match=r"one node of a Cluster.*redis\+cluster://"):
            subscribe(f"redis://127.0.0.1:{other.port}")

    def test_a_primary_that_is_killed(self, tmp_path: Path) -> None:
        """Its replica takes over; what it had not got is sent again, or else told to be lost."""
        cluster = Cluster(tmp_path / "nodes", replicas=True)
        try:
            first, last = clips(0, 30), clips(30, 60)
            with deliver(cluster.url, tmp_path) as delivery, closing(Yard(cluster.url)) as yard:
                listener = Listener(cluster.url, partitions=PARTITIONS)
                feed(delivery, first)
                yard.publish_and_read()
                wait_for(lambda: not delivery.waiting, "published")
                victim = cluster.owner(Keys(partitions=PARTITIONS).stream("clips", 0))
                cut_replicas(victim)
                lost = clips(100, 103)
                feed(delivery, lost)
                yard.publish(2)
                wait_for(lambda: not delivery.waiting, "acknowledged, by one server alone")
                victim.kill()
                feed(delivery, last)
                yard.publish_and_read()
                # What other members of a group had read is not known.
                assert yard.told == [(2, FAILOVER), (0, FAILOVER)]
                wait_for(lambda: not delivery.waiting, "all published")
                assert delivery.sent_again
                listener.expect([*first, *lost, *last])
                again = Listener(cluster.url, partitions=PARTITIONS)
                again.expect([*first, *lost, *last])
        finally:
            cluster.kill()


class TestSentinel:
    @pytest.fixture
    def watched(self, tmp_path: Path) -> Iterator[Watched]:
        watched = Watched(tmp_path / "nodes")
        yield watched
        watched.kill()

    @pytest.mark.parametrize("how", ["killed", "asked"])
    def test_a_failover(self, watched: Watched, tmp_path: Path, how: str) -> None:
        """Killed, the primary takes with it what its replica had not got: that is sent again, and read once."""
        first, lost, last = clips(0, 20), clips(20, 40), clips(40, 60)
        records = [*first, *lost, *last]
        with deliver(watched.url, tmp_path) as delivery:
            listeners = [Listener(watched.url, partitions=PARTITIONS, group=group) for group in (None, "g")]
            feed(delivery, first)
            wait_for(lambda: not delivery.waiting, "published")
            if how == "killed":
                cut_replicas(watched.primary)
                feed(delivery, lost)
                wait_for(lambda: not delivery.waiting, "acknowledged, by one server alone")
                watched.primary.kill()
            else:
                watched.sentinels[0].say("SENTINEL FAILOVER", "mymaster")
                # The old primary goes on to take them for some seconds after the replica was promoted.
                feed(delivery, lost, every=0.03)
            feed(delivery, last)
            wait_for(lambda: delivery.sent_again > 0 and not delivery.waiting, "sent again")
            assert watched.replica.client.info("replication")["role"] == "master"
            listeners[0].expect(records)
            # A group does not know what its members had before: at least once.
            listeners[1].expect(records, repeated=True)
        with subscribe(watched.url, since="start", partitions=PARTITIONS, idle_s=1) as subscription:
            assert by_source(list(subscription)) == by_source(records)

    def test_in_asyncio(self, watched: Watched) -> None:
        """What the replica had not got, and nobody sends again, is told."""
        first, lost, last = clips(0, 2), clips(2, 4), clips(4, 6)
        told: list[Lost] = []

        def fail_over(publisher: Publisher) -> None:
            cut_replicas(watched.primary)
            publisher.publish_many(lost)
            watched.primary.kill()
            publisher.publish_many(last)

        async def follow(publisher: Publisher) -> list[Record]:
            words: dict[str, Any] = {"since": "start", "idle_s": 30, "block_s": 0.2, "on_lost": told.append}
            async with subscribe_async(watched.url, **words) as subscription:
                got = [await anext(subscription) for _ in first]
                await asyncio.to_thread(fail_over, publisher)
                return got + [await anext(subscription) for _ in last]

        with Publisher.open(PublishConfig(redis=watched.url)) as publisher:
            publisher.publish_many(first)
            wait_for(lambda: watched.replica.client.xlen("streamfer:{0}:clips") == len(first), "it replicates")
            assert by_source(asyncio.run(follow(publisher))) == by_source([*first, *last])
        assert sorted((one.subject, one.count, one.why) for one in told) == sorted((s, 2, FAILOVER) for s in SOURCES)

    def test_wrong_words(self, watched: Watched) -> None:
        url = watched.url
        for wrong, words in (
            (url.replace("mymaster", "other"), "other"),
            (url.replace("/mymaster/0", ""), "names no primary"),
            (url.replace("=watch", "=guess"), "cannot be reached|denies"),
        ):
            with pytest.raises(PublishError, match=words):
                subscribe(wrong)


@pytest.mark.skipif(secure_server() is None, reason="no redis-server that speaks TLS on the path")
class TestTls:
    """The same over TLS, with an own authority; and who does not know it is told."""

    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Certificate:
        return Certificate(tmp_path / "tls")

    def test_one_server(self, certificate: Certificate, tmp_path: Path) -> None:
        node = Node(tmp_path, "--save", "", tls=certificate)
        try:
            place = f"127.0.0.1:{node.port}"
            self._goes_through(f"rediss://{place}/0?ssl_ca_certs={certificate.path}")
            for url, words in (
                (f"rediss://{place}", "certificate.*ssl_ca_certs="),
                (f"redis://{place}", r"cannot be reached|does not speak Redis"),
                (f"rediss://{place}/0?ssl_ca_certs=/nowhere.pem", "ssl_ca_certs"),
            ):
                with pytest.raises(PublishError, match=words):
                    subscribe(url)
        finally:
            node.kill()

    def test_an_authority_that_is_another_now(self, certificate: Certificate, tmp_path: Path) -> None:
        node, other = Node(tmp_path, "--save", "", tls=certificate), Certificate(tmp_path / "other")
        known = tmp_path / "authority.pem"
        known.write_bytes(certificate.path.read_bytes())
        (record,) = clips(0, 1, ["hall"])

        async def follow() -> str:
            url = f"rediss://127.0.0.1:{node.port}/0?ssl_ca_certs={known}"
            async with subscribe_async(url, idle_s=60) as one:
                node.say("CONFIG", "SET", *(word.removeprefix("--") for word in other.words[:6]))
                known.write_bytes(other.path.read_bytes())
                node.client.client_kill_filter(_type="normal", skipme=True)
                Publisher(node.client).publish(record)
                return (await anext(one)).id

        try:
            assert asyncio.run(follow()) == record.id
        finally:
            node.kill()

    def test_a_cluster(self, certificate: Certificate, tmp_path: Path) -> None:
        cluster = Cluster(tmp_path / "nodes", tls=certificate)
        try:
            self._goes_through(cluster.url)
        finally:
            cluster.kill()

    def test_sentinels(self, certificate: Certificate, tmp_path: Path) -> None:
        """Failover included: who is the primary is asked over TLS, too."""
        watched = Watched(tmp_path / "nodes", tls=certificate)
        try:
            self._goes_through(watched.url)
            with deliver(watched.url, tmp_path) as delivery:
                watched.primary.kill()
                feed(delivery, clips(20, 22))
                wait_for(lambda: not delivery.waiting, "the replica takes them")
        finally:
            watched.kill()

    def _goes_through(self, url: str) -> None:
        records = clips(0, 3)
        with Publisher.open(PublishConfig(redis=url, partitions=PARTITIONS)) as publisher:
            publisher.publish_many(records)
        settings: dict[str, Any] = {"partitions": PARTITIONS, "since": "start", "idle_s": 1}
        with subscribe(url, **settings) as alone, subscribe(url, group="g", **settings) as member:
            assert by_source(list(alone)) == by_source(list(member)) == by_source(records)

        async def follow() -> list[Record]:
            async with subscribe_async(url, **settings) as subscription:
                return [record async for record in subscription]

        assert by_source(asyncio.run(follow())) == by_source(records)


def publish(url: str, records: list[Record]) -> None:
    with Publisher.open(PublishConfig(redis=url), waits=True) as publisher:
        publisher.publish_many(records)


def cut_replicas(primary: Node) -> None:
    """Have a primary's replicas get nothing more."""
    primary.say("ACL", "SETUSER", "default", "-psync", "-sync")
    primary.say("CLIENT", "KILL", "TYPE", "replica")
    time.sleep(0.2)


def feed(delivery: Delivery, records: list[Record], every: float = 0.002) -> None:
    for record in records:
        delivery.put(record)
        time.sleep(every)
