"""Status hashes in Redis that live as long as their sources do."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Protocol

from streamfer.errors import PublishError

_EVERY_SECONDS = 10.0

log = logging.getLogger(__name__)


class _Publisher(Protocol):
    def heartbeat(self, source_id: str, status: Mapping[str, str | int | float]) -> None: ...


class Heartbeats:
    """Keeps each source's status hash alive while it is analysed; writes at most every ten seconds."""

    def __init__(self, publisher: _Publisher) -> None:
        self._publisher = publisher
        self._last: dict[str, float] = {}

    def beat(self, source_id: str, **status: str | int | float) -> None:
        """Note that a source is online."""
        now = time.monotonic()
        if now - self._last.get(source_id, float("-inf")) < _EVERY_SECONDS:
            return
        self._last[source_id] = now
        try:
            self._publisher.heartbeat(source_id, {"state": "online", **status})
        except PublishError as error:
            # Records wait for Redis to come back; a heartbeat that is late is of no use to anybody.
            log.warning("publish.heartbeat_lost", extra={"source": source_id, "reason": str(error)})
