"""Records in Redis: publishing them once, and following them as a subscriber."""

from __future__ import annotations

from streamfer.publish.append import Retention
from streamfer.publish.connection import connect
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.publish.keys import STREAM_NAMES, Keys, StreamName
from streamfer.publish.publisher import Publisher
from streamfer.publish.sink import FakeSink, MemorySink, Outcome, Sink
from streamfer.publish.subscription import Subscription, subscribe

__all__ = [
    "STREAM_NAMES",
    "EmbeddedRedis",
    "FakeSink",
    "Keys",
    "MemorySink",
    "Outcome",
    "Publisher",
    "Retention",
    "Sink",
    "StreamName",
    "Subscription",
    "connect",
    "subscribe",
]
