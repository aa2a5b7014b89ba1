"""What the tests of publishing share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from streamfer.publish import connect


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with closing(connect(redis_url)) as client:
        yield client
