"""What the tests of publishing share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from servers import Node, newer_server

from streamfer.publish import connect


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with closing(connect(redis_url)) as client:
        yield client


@pytest.fixture
def newer_url(tmp_path: Path) -> Iterator[str]:
    """Address of a server of version 7 or later."""
    program = newer_server()
    if program is None:
        pytest.skip("no redis-server of version 7 or later on the path")
    node = Node(tmp_path, "--save", "", program=program)
    try:
        yield f"redis://127.0.0.1:{node.port}"
    finally:
        node.kill()
