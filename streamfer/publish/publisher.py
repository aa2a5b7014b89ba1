"""Publishing records to Redis streams."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import redis
import stamina
from redis import exceptions as faults

from streamfer.closing import Closing
from streamfer.config import PublishConfig
from streamfer.errors import InternalError, PublishError
from streamfer.publish.append import Retention, choose_appender
from streamfer.publish.connection import connect, explain
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.publish.keys import Keys
from streamfer.publish.sink import Outcome
from streamfer.records import Record

# A server that restarts, loads its data or hands over to a replica is back soon; other refusals are final.
_PASSING = (faults.ConnectionError, faults.TimeoutError, faults.ReadOnlyError, OSError)
_BATCH = 256

log = logging.getLogger(__name__)


class Publisher(Closing):
    """Appends records to the streams of :class:`streamfer.publish.keys.Keys`; safe to use from several threads.

    What is promised: at least once, duplicates suppressed within the retention's window, in order per source
    and epoch as long as one publisher writes a source.

    Args:
        client: from :func:`streamfer.publish.connection.connect`; closing it stays with the caller.
        site: producer name that a server with own idempotence remembers ids by.
        prefix, partitions: see :class:`Keys`.
        retention: how long streams and the memory of ids are.
        attempts: tries for each batch when the connection is lost.
        patience: seconds over which those tries are spread at most.
        url: how to call the server in error messages.
    """

    def __init__(
        self,
        client: redis.Redis,
        site: str = "local",
        prefix: str = "streamfer",
        *,
        partitions: int = 1,
        retention: Retention | None = None,
        attempts: int = 8,
        patience: float = 30.0,
        url: str = "redis://",
    ) -> None:
        self.keys = Keys(prefix, partitions)
        self.url = url
        self._client = client
        self._attempts = attempts
        self._patience = patience
        self._lock = threading.Lock()
        self._owned: list[redis.Redis | EmbeddedRedis] = []
        self._sequences: dict[str, int] = {}
        # Microseconds now: later runs count on above earlier ones without asking anybody.
        self._first_sequence = time.time_ns() // 1000
        try:
            self._appender = choose_appender(client, self.keys, retention or Retention(), site)
        except (*_PASSING, faults.RedisError) as error:
            raise PublishError(explain(url, error)) from error

    @classmethod
    def open(
        cls,
        url: str | None = None,
        site: str = "local",
        prefix: str = "streamfer",
        *,
        partitions: int = 1,
        retention: Retention | None = None,
    ) -> Self:
        """Connect to ``url``, or to the embedded server where it is None, and own that connection.

        Raises:
            PublishError: the server cannot be reached, or refuses.
        """
        owned: list[redis.Redis | EmbeddedRedis] = []
        try:
            if url is None:
                embedded = EmbeddedRedis.start()
                owned.append(embedded)
                url = embedded.url
            client = connect(url)
            owned.append(client)
            publisher = cls(client, site, prefix, partitions=partitions, retention=retention, url=url)
        except BaseException:
            for thing in reversed(owned):
                thing.close()
            raise
        publisher._owned = owned
        return publisher

    def publish(self, record: Record) -> Outcome:
        """Publish one record; see :meth:`publish_many`."""
        return self.publish_many([record])[0]

    def publish_many(self, records: Sequence[Record]) -> list[Outcome]:
        """Append ``records`` in order, numbering those without a sequence.

        A number that a duplicate was given is not used again, so a subscriber may see numbers missing.

        Raises:
            PublishError: Redis stayed away longer than the patience lasts, or refused. What was appended by then
                is recognised as duplicate when the same records are published again.
        """
        outcomes: list[Outcome] = []
        with self._lock:
            numbered = [self._numbered(record) for record in records]
            for start in range(0, len(numbered), _BATCH):
                outcomes += self._append(numbered[start : start + _BATCH])
        return outcomes

    def heartbeat(self, source_id: str, status: Mapping[str, str | int | float], ttl: int = 30) -> None:
        """Say that a source is alive: fields of its status hash, which vanishes ``ttl`` seconds later.

        Raises:
            PublishError: Redis is away or refuses; a heartbeat is not worth waiting for.
        """
        key = self.keys.status(source_id)
        fields: dict[Any, Any] = {**status, "updated": f"{time.time():.3f}"}
        try:
            with self._client.pipeline(transaction=True) as pipeline:
                pipeline.delete(key)
                pipeline.hset(key, mapping=fields)
                pipeline.expire(key, ttl)
                pipeline.execute()
        except (*_PASSING, faults.RedisError) as error:
            raise PublishError(explain(self.url, error)) from error

    def close(self) -> None:
        """Close what :meth:`open` opened; may be called twice."""
        with self._lock:
            owned, self._owned = self._owned, []
        for thing in reversed(owned):
            thing.close()

    def _numbered(self, record: Record) -> Record:
        if record.sequence is not None:
            return record
        number = self._sequences.get(record.subject, self._first_sequence)
        self._sequences[record.subject] = number + 1
        return record.numbered(number)

    def _append(self, records: Sequence[Record]) -> list[Outcome]:
        try:
            for attempt in stamina.retry_context(
                on=_PASSING, attempts=self._attempts, timeout=self._patience, wait_initial=0.1, wait_max=5.0
            ):
                with attempt:
                    return self._appender.append(self._client, records)
        except (*_PASSING, faults.RedisError) as error:
            message = explain(self.url, error)
            # The error carries its cause; a traceback in the log would say it twice.
            log.error("publish.failed", extra={"records": len(records), "reason": message})  # noqa: TRY400
            raise PublishError(message) from error
        raise InternalError("stamina's retry context ended without result and without error")


def open_publisher(config: PublishConfig) -> Publisher:
    """Connect to the configured Redis, or start or join the embedded server.

    Raises:
        PublishError: the server cannot be reached, or refuses.
    """
    return Publisher.open(
        config.redis,
        config.site,
        config.prefix,
        partitions=config.partitions,
        retention=Retention(config.maxlen, config.dedup_seconds),
    )
