"""The records of a run on their way to Redis, and the record of a source that cannot be read."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamfer.config import Config
from streamfer.errors import StreamferError
from streamfer.redaction import redact_text

if TYPE_CHECKING:
    from streamfer.api.preview import Previews
    from streamfer.api.tracing import Tracer
    from streamfer.pipeline.events import Event, FrameFaces
    from streamfer.publish.delivery import Delivery
    from streamfer.publish.heartbeat import Heartbeats
    from streamfer.records import Record

log = logging.getLogger(__name__)


class _Seconds:
    """Collects the frames of each source into one record a second: frames never wait, and cost little beside labels."""

    def __init__(self, config: Config) -> None:
        from streamfer.pipeline.reports import this_producer

        self._site = config.publish.site
        # One for all: readers compare the numbers within a producer's run.
        self._producer = this_producer(config.purpose)
        self._epochs: dict[str, tuple[int, str]] = {}
        self._held: dict[str, list[FrameFaces]] = {}

    def take(self, event: Event) -> Record | None:
        """Take an event; return the record of the second that it ends."""
        from streamfer.pipeline.events import FrameFaces, SourceDone, SourceOpened

        if isinstance(event, FrameFaces):
            held = self._held.setdefault(event.source_id, [])
            over = bool(held) and (held[0].epoch, int(held[0].seconds)) != (event.epoch, int(event.seconds))
            ended = self._record(event.source_id) if over else None
            self._held.setdefault(event.source_id, []).append(event)
            return ended
        if not isinstance(event, SourceDone | SourceOpened):
            return None
        ended = self._record(event.source_id)
        if isinstance(event, SourceOpened):
            self._epochs[event.source_id] = (event.epoch, event.info.epoch_key)
        return ended

    def _record(self, source_id: str) -> Record | None:
        from streamfer.records import FrameMarks, FramesAnalysed, Record

        held = self._held.pop(source_id, [])
        epoch, key = self._epochs.get(source_id, (-1, ""))
        if not held or held[0].epoch != epoch:
            return None
        frames = tuple(FrameMarks.model_validate(frame, from_attributes=True) for frame in held)
        document = FramesAnalysed(epoch=epoch, epoch_key=key, frames=frames, producer=self._producer)
        return Record.of(document, source_id=source_id, site=self._site)


@dataclass(eq=False, slots=True)
class Outlet:
    """Takes the events of a run; their records go to Redis and their sources' statuses stay alive."""

    delivery: Delivery | None = None
    beats: Heartbeats | None = None
    seconds: _Seconds | None = None
    previews: Previews | None = None
    tracer: Tracer | None = None
    #: one line on what could not be published in time; empty where nothing waits, and before the end
    left: str = ""

    def take(self, event: Event) -> None:
        """Take an event; never waits for Redis."""
        from streamfer.pipeline.events import FrameFaces
        from streamfer.records import Record, SourceStateChanged

        if self.delivery is None or self.beats is None:
            return
        if self.seconds and (second := self.seconds.take(event)):
            self.delivery.put(second)
        if isinstance(event, Record):
            self.delivery.put(self.tracer.trace(event) if self.tracer else event)
            if isinstance(event.data, SourceStateChanged):
                self.beats.note(event.subject, state=event.data.state, epoch=event.data.epoch, reason=event.data.reason)
        elif isinstance(event, FrameFaces):
            lag = {} if event.newest is None else {"lag": round(max(0.0, time.time() - event.newest), 3)}
            facts = {"epoch": event.epoch, "seconds": event.seconds, "faces": len(event.faces)}
            self.beats.note(event.source_id, **facts, dropped=sum(event.dropped.values()), **lag)


@contextmanager
def publishing(config: Config, redis: str | None, *, waits: bool) -> Iterator[Outlet]:
    """Yield what takes the events of a run; at the end it has ``shutdown.seconds`` to publish what waits.

    They go to ``redis``, a URL or ``embedded``, which may be away at the start where it ``waits``; nowhere if None.

    Raises:
        PublishError: the URL is wrong, Redis refuses the credentials, it is no Redis, or it may not be away.
        OutputError: the spool's folder cannot be written.
    """
    if redis is None:
        yield Outlet()
        return
    from streamfer.publish import Delivery
    from streamfer.publish.heartbeat import Heartbeats

    tracer = None
    if config.health.traces is not None:
        from streamfer.api.tracing import Tracer

        tracer = Tracer(config.health.traces, config.publish.site)
    url = None if redis == "embedded" else redis
    delivery = Delivery.open(config.publish.model_copy(update={"redis": url}), waits=waits)
    shown = config.publish.preview if waits else "off"
    previews: Previews | None = None
    if shown == "off":
        beats = Heartbeats(delivery.publisher.heartbeat)
    else:
        from streamfer.api.preview import Previews

        beats = Heartbeats(delivery.publisher.heartbeat, lambda _source: {"preview": shown})
        previews = Previews(delivery.publisher, beats.status, blurred=shown == "blurred")
    outlet = Outlet(delivery, beats, _Seconds(config) if config.publish.frames else None, previews, tracer)
    try:
        yield outlet
    finally:
        if previews is not None:
            previews.close()
        beats.close()
        delivery.close(config.shutdown.seconds)
        if tracer is not None:
            tracer.close()
        outlet.left = delivery.left
        if outlet.left and waits:
            log.error("publish.left", extra={"reason": outlet.left})


def source_ended(source_id: str, error: StreamferError, config: Config) -> Record:
    """Return the record of a source that cannot be read."""
    from streamfer.pipeline.reports import this_producer
    from streamfer.records import Record, SourceStateChanged

    reason = redact_text(" ".join(str(error).split()))
    document = SourceStateChanged(
        state="ended", epoch=0, wall_time=time.time(), reason=reason, producer=this_producer(config.purpose)
    )
    return Record.of(document, source_id=source_id, site=config.publish.site)
