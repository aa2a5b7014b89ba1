"""Servers that lose what they had: what a subscriber did not see of it is told, and nothing that comes again is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from published import CLIPS, clips
from servers import Node, newer_server, wait_for

from streamfer.publish import Lost, Publisher, subscribe, subscribe_async
from streamfer.publish.reading import TRIMMED
from streamfer.records import Record

ANEW = "the stream was emptied, or restored from an older state"
AGAIN = "the server was started again, from an older state"
UNKNOWN = "the stream was restored from an older state, or another server's has its place"
WAYS = ("alone", "asyncio", "group")


class Follower:
    """A subscriber of one way, and what it was told."""

    def __init__(self, url: str, way: str) -> None:
        self.told: list[tuple[str, int, str]] = []
        words: dict[str, Any] = {"streams": ("clips",), "since": "start", "block_s": 0.1, "on_lost": self._lose}
        self._loop = asyncio.new_event_loop() if way == "asyncio" else None
        # A group cannot tell what its other members read before.
        self.counts = way != "group"
        group: dict[str, Any] = {} if self.counts else {"group": "g", "consumer": "one"}
        self._subscription: Any = (subscribe_async if self._loop else subscribe)(url, **words, **group)

    def _lose(self, lost: Lost) -> None:
        self.told.append((lost.subject, lost.count, lost.why))

    def read(self, count: int) -> list[int | None]:
        """Return the numbers of the next records, whose effect is done."""
        self._subscription.idle_s = 60
        if self._loop is None:
            got = [next(self._subscription) for _ in range(count)]
            self._subscription.commit()
        else:
            got = self._loop.run_until_complete(self._collect(count))
        return [record.sequence for record in got]

    async def _collect(self, count: int) -> list[Record]:
        got = [await anext(self._subscription) for _ in range(count)]
        await self._subscription.commit()
        return got

    def nothing_comes(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for so long."""
        self._subscription.idle_s = seconds
        if self._loop is None:
            return next(self._subscription, None) is None
        try:
            return self._loop.run_until_complete(self._collect(1)) == []
        except (StopAsyncIteration, RuntimeError):
            return True

    def close(self) -> None:
        """Leave; may be done twice."""
        if self._loop is None:
            self._subscription.close()
        elif not self._loop.is_closed():
            self._loop.run_until_complete(self._subscription.close())
            self._loop.close()


@pytest.fixture(params=WAYS)
def follow(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Follower]]:
    made: list[Follower] = []

    def make(url: str) -> Follower:
        made.append(Follower(url, request.param))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, "--save", "")
    yield node
    node.kill()


def address(node: Node) -> str:
    return f"redis://127.0.0.1:{node.port}/0"


@pytest.mark.parametrize("resent", [True, False], ids=["sent again", "not sent again"])
def test_a_server_that_starts_again_from_a_backup(
    node: Node, follow: Callable[[str], Follower], *, resent: bool
) -> None:
    """It has four of six records that were read and none of two that were not, and all of another source."""
    records, publisher = clips(10), Publisher(node.client)
    follower = follow(address(node))
    publisher.publish_many([*records[:4], *clips(1, "door")])
    assert follower.read(5) == [0, 1, 2, 3, 0]
    node.say("SAVE")
    publisher.publish_many(records[4:6])
    assert follower.read(2) == [4, 5]
    publisher.publish_many(records[6:8])
    node.kill()
    node.start()
    # As a publisher does that keeps what was acknowledged within the last seconds.
    publisher.publish_many(records[5 if resent else 8 : 9])
    expected = [6, 7, 8] if resent else [8]
    assert follower.read(len(expected)) == expected
    assert follower.nothing_comes()
    follower.close()
    assert follower.told == ([] if resent else [("hall", 2 * follower.counts, AGAIN)])


def test_a_stream_that_was_emptied(
    node: Node, follow: Callable[[str], Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamfer.publish.order._SETTLE_SECONDS", 600)
    records, publisher = clips(12), Publisher(node.client)
    follower = follow(address(node))
    publisher.publish_many([*records[:6], *clips(1, "door")])
    assert len(follower.read(7)) == 7
    node.client.flushall()
    assert follower.nothing_comes()
    publisher.publish_many(records[6:8])
    assert follower.read(2) == [6, 7]
    assert follower.told == [], "nothing is missing"
    publisher.publish_many(records[8:10])
    node.client.flushall()
    assert follower.nothing_comes()
    publisher.publish_many(records[10:])
    assert follower.read(2) == [10, 11]
    lost = [("hall", 2 * follower.counts, ANEW)]
    assert follower.told == lost
    follower.close()
    assert follower.told == [*lost, ("", 0, ANEW)], "the other source may have lost something"


def test_who_is_heard_no_more_may_have_lost_something(
    node: Node, follow: Callable[[str], Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamfer.publish.order._SETTLE_SECONDS", 0.1)
    follower = follow(address(node))
    Publisher(node.client).publish_many(clips(3))
    assert follower.read(3) == [0, 1, 2]
    node.client.delete(CLIPS)
    wait_for(lambda: follower.nothing_comes() and bool(follower.told), "told")
    assert follower.told == [("", 0, ANEW)]


@pytest.mark.parametrize("newer", [False, True], ids=["6.2", "newer"])
def test_a_stream_that_was_emptied_and_filled_at_once(
    tmp_path: Path, follow: Callable[[str], Follower], *, newer: bool
) -> None:
    """What comes later has higher ids than what was read; only newer servers count what was ever added."""
    program = newer_server() if newer else None
    if newer and program is None:
        pytest.skip("no redis-server of version 7 or later on the path")
    node = Node(tmp_path, "--save", "", program=program)
    try:
        records, publisher = clips(10), Publisher(node.client)
        follower = follow(address(node))
        publisher.publish_many(records[:6])
        assert len(follower.read(6)) == 6
        publisher.publish_many(records[6:8])
        node.client.flushall()
        publisher.publish_many(records[8:])
        assert follower.read(2) == [8, 9]
        assert follower.nothing_comes()
        assert follower.told == [("hall", 2 * follower.counts, ANEW) if newer else ("hall", 2, TRIMMED)]
        follower.close()
    finally:
        node.kill()


def test_a_place_that_the_stream_never_had(node: Node) -> None:
    """Resumed on a server that was restored, or on another one: all it has is read, and it is said."""
    Publisher(node.client).publish_many(clips(3))
    told: list[Lost] = []
    stored: Any = node.client.xrange(CLIPS)
    ahead = f"{int(stored[-1][0].partition('-')[0]) + 1}-0"
    words: dict[str, Any] = {"streams": ("clips",), "idle_s": 0.3, "on_lost": told.append}
    with subscribe(address(node), since=ahead, **words) as subscription:
        assert [record.sequence for record in subscription] == [0, 1, 2]
    assert [(lost.count, lost.why) for lost in told] == [(0, UNKNOWN)]
