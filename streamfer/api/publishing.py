"""The records of a run on their way to Redis, and the record of a source that cannot be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamfer.config import PublishConfig
from streamfer.errors import StreamferError
from streamfer.redaction import redact_text

if TYPE_CHECKING:
    from streamfer.pipeline.events import Event
    from streamfer.records import Record


@contextmanager
def publishing(config: PublishConfig, redis: str | None) -> Iterator[Callable[[Event], None]]:
    """Yield what takes events, publishes their records, and keeps the status of their sources alive.

    Args:
        config: site, prefix and retention.
        redis: a URL, ``embedded``, or None: events are taken for nothing.

    Raises:
        PublishError: Redis refuses or is away.
    """
    if redis is None:
        yield lambda _event: None
        return
    from streamfer.publish import open_publisher
    from streamfer.publish.heartbeat import Heartbeats

    url = None if redis == "embedded" else redis
    with open_publisher(config.model_copy(update={"redis": url})) as publisher:
        beats = Heartbeats(publisher)

        def publish(event: Event) -> None:
            from streamfer.pipeline.events import FrameFaces
            from streamfer.records import Record

            if isinstance(event, Record):
                publisher.publish_many([event])
            elif isinstance(event, FrameFaces):
                beats.beat(event.source_id, epoch=event.epoch, seconds=event.seconds, faces=len(event.faces))

        yield publish


def source_ended(source_id: str, error: StreamferError, site: str) -> Record:
    """Return the record of a source that cannot be read."""
    from streamfer.pipeline.reports import this_producer
    from streamfer.records import Record, SourceStateChanged

    reason = redact_text(" ".join(str(error).split()))
    document = SourceStateChanged(
        state="ended", epoch=0, wall_time=time.time(), reason=reason, producer=this_producer()
    )
    return Record.of(document, source_id=source_id, site=site)
