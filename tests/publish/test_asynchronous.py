"""Following records in asyncio's loop: the same core, so what is tested here is the driving."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
from command_line import discover, wait_for
from published import CLIPS, clips, pending

import streamfer
from streamfer.config import PublishConfig
from streamfer.errors import ConfigError, PublishError
from streamfer.publish import AsyncSubscription, EmbeddedRedis, Lost, Publisher, subscribe_async
from streamfer.records import Record


async def collect(subscription: AsyncSubscription) -> list[Record]:
    return [record async for record in subscription]


def test_everything_in_order_and_losses_told(redis_url: str, client: redis.Redis) -> None:
    records, told = clips(90), list[Lost]()

    async def follow() -> list[Record]:
        async with streamfer.subscribe_async(redis_url, since="start", idle_s=0.3, on_lost=told.append) as subscription:
            first = [await anext(subscription)]
            client.xtrim(CLIPS, maxlen=5, approximate=False)
            return first + await collect(subscription)

    Publisher(client).publish_many(records)
    got = asyncio.run(follow())
    assert got == records[:64] + records[85:]
    assert [lost.count for lost in told] == [21]


def test_new_begins_when_it_is_entered_and_others_run_meanwhile(redis_url: str, client: redis.Redis) -> None:
    records = clips(3)

    async def follow() -> tuple[list[Record], int]:
        turns = 0
        async with subscribe_async(redis_url, idle_s=5) as subscription:
            timer = threading.Timer(0.5, Publisher(client).publish_many, [records[1:]])
            timer.start()
            reading = asyncio.ensure_future(anext(subscription))
            while not reading.done():
                turns += 1
                await asyncio.sleep(0.01)
            timer.join()
            return [reading.result(), await anext(subscription)], turns

    Publisher(client).publish(records[0])
    got, turns = asyncio.run(follow())
    assert got == records[1:]
    assert turns > 3


def test_without_entering_it(redis_url: str, client: redis.Redis) -> None:
    async def follow() -> list[Record]:
        subscription = subscribe_async(redis_url, since="start", idle_s=0.2)
        got = await collect(subscription)
        await subscription.close()
        await subscription.close()
        return got + await collect(subscription)

    records = clips(3)
    Publisher(client).publish_many(records)
    assert asyncio.run(follow()) == records


def test_a_group_whose_read_is_cancelled_loses_nothing(redis_url: str, client: redis.Redis) -> None:
    """Cancelled when the server has handed the records out and before the first of them is here."""
    records = clips(20)
    Publisher(client).publish_many(records)

    async def follow() -> list[Record]:
        async with subscribe_async(redis_url, group="g", consumer="one", since="start", idle_s=0.5) as subscription:
            read, came, goes_on = subscription._client.xreadgroup, threading.Event(), threading.Event()

            def held_up(*words: Any, **more: Any) -> Any:
                reply = read(*words, **more)
                if words[2] == dict.fromkeys(words[2], ">"):
                    subscription._client.xreadgroup = read
                    came.set()
                    assert goes_on.wait(60)
                return reply

            subscription._client.xreadgroup = held_up
            asked = asyncio.ensure_future(anext(subscription))
            assert await asyncio.to_thread(came.wait, 60)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert pending(client) == 16
            goes_on.set()
            # Nothing was handed out, so nothing is acknowledged.
            await subscription.commit()
            assert pending(client) == 16
            return await collect(subscription)

    assert asyncio.run(follow()) == records
    assert pending(client) == 0


@pytest.mark.parametrize("group", [None, "g"], ids=["alone", "group"])
def test_who_is_closed_while_it_reads_reads_no_more(redis_url: str, client: redis.Redis, group: str | None) -> None:
    records = clips(9)

    async def follow() -> None:
        async with subscribe_async(redis_url, group=group, block_s=3600) as subscription:
            asked = asyncio.ensure_future(anext(subscription))
            await asyncio.sleep(0.3)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            # What was broken off can be gone on with.
            await subscription.commit()
            Publisher(client).publish(records[0])
            assert await anext(subscription) == records[0]
            asked = asyncio.ensure_future(anext(subscription))
            await asyncio.sleep(0.3)
            asked.cancel()

    asyncio.run(asyncio.wait_for(follow(), 60))
    Publisher(client).publish_many(records[1:])
    if group is not None:
        # The one that was handed out is acknowledged, and nobody took the others.
        assert pending(client) == 0


def test_a_server_that_is_killed(tmp_path: Path) -> None:
    records = clips(6)

    def kill(server: EmbeddedRedis) -> None:
        found = discover(server.folder)
        assert found is not None
        os.kill(found["server"], signal.SIGKILL)
        wait_for(lambda: (discover(server.folder) or found)["server"] != found["server"], "another server")

    async def follow(server: EmbeddedRedis) -> list[Record]:
        got = []
        async with subscribe_async(server.url, idle_s=20) as subscription:
            for number, record in enumerate(records):
                await asyncio.to_thread(publisher.publish, record)
                got.append(await anext(subscription))
                if number in (1, 3):
                    await asyncio.to_thread(kill, server)
        return got

    with (
        EmbeddedRedis.start(tmp_path / "redis") as server,
        Publisher.open(PublishConfig(redis=server.url)) as publisher,
    ):
        assert asyncio.run(follow(server)) == records


@pytest.mark.parametrize(
    ("url", "settings", "error"),
    [
        ("redis://127.0.0.1:1/0", {}, PublishError),
        ("http://h", {}, PublishError),
        ("redis://h", {"since": "x"}, ConfigError),
    ],
)
def test_what_cannot_be(url: str, settings: dict[str, Any], error: type[Exception]) -> None:
    async def follow() -> None:
        async for _ in subscribe_async(url, **settings):
            pass

    with pytest.raises(error):
        asyncio.run(follow())
