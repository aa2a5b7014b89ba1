"""What the tests of bridges stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import redis
from bridging import Mosquitto, Program, Receiver, Running, Watcher

from streamfer.publish import Publisher, connect


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with closing(connect(redis_url)) as client:
        yield client


@pytest.fixture
def publish(client: redis.Redis) -> Callable[..., None]:
    return lambda *records: Publisher(client).publish_many(list(records))  # type: ignore[return-value]


@pytest.fixture
def bridge(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Start bridges in this process."""
    with ExitStack() as stack:

        def start(*words: str, **environment: str) -> Running:
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            return stack.enter_context(Running(redis_url, *words))

        yield start


@pytest.fixture
def program(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Program]]:
    """Start bridges that can be killed or frozen."""
    with ExitStack() as stack:
        yield lambda *words, **environment: stack.enter_context(Program(tmp_path, redis_url, *words, **environment))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    started: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        started.append(Mosquitto(tmp_path, *lines))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watcher]]:
    with ExitStack() as stack:
        yield lambda broker, **account: stack.enter_context(closing(Watcher(broker, **account)))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with closing(Receiver()) as receiver:
        yield receiver
