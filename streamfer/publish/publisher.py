"""Publishing records to Redis streams, the caller waiting; see :mod:`streamfer.publish.delivery` for who must not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import redis
from redis.cluster import RedisCluster

from streamfer.closing import Closing
from streamfer.config import PublishConfig
from streamfer.errors import PublishError
from streamfer.publish.append import Fields, Outcome, append
from streamfer.publish.connection import TROUBLE, can_pass, connect, disconnect, explain, is_cluster, is_watched
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.publish.keys import Keys
from streamfer.records import Record
from streamfer.redaction import redact_url

_BATCH = 256
_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_LOOK_SECONDS = 1.0


class Numbering:
    """Numbers the records of each source within each stream, later runs above earlier ones.

    Numbers of one run follow one another without a hole, so that a subscriber sees what is missing; where a record is
    there already, :func:`streamfer.publish.append.append` closes it.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._next: dict[tuple[str, str], int] = {}
        # Microseconds now: later runs count on above earlier ones without asking anybody.
        self._first = time.time_ns() // 1000

    def number(self, record: Record) -> dict[str, str]:
        """Return the record's fields with its number; one that has a number keeps it."""
        if record.sequence is not None:
            return record.to_fields()
        place = (self._keys.name_of(record.type), record.subject)
        number = self._next.get(place, self._first)
        self._next[place] = number + 1
        return record.to_fields(number)


class Publisher(Closing):
    """Appends records to the streams of :class:`streamfer.publish.keys.Keys`; safe to use from several threads.

    What is promised: at least once, duplicates suppressed within the retention's window, in order per source
    and epoch as long as one publisher writes a source.

    Args:
        client: from :func:`streamfer.publish.connection.connect`; closing it stays with the caller.
        config: names of the keys, and how long streams and the memory of ids are.
        patience: seconds to go on trying while Redis is away.
        url: how to call the server in error messages.
    """

    def __init__(
        self,
        client: redis.Redis,
        config: PublishConfig | None = None,
        *,
        patience: float = 30.0,
        url: str = "redis://",
    ) -> None:
        self._config = config or PublishConfig()
        self.keys = Keys(self._config.prefix, self._config.partitions)
        self.url = url
        self._client = client
        self._patience = patience
        self._lock = threading.Lock()
        self._embedded: EmbeddedRedis | None = None
        self._owned = contextlib.ExitStack()
        self._numbering = Numbering(self.keys)
        self._next_look = 0.0
        self._evicted: int | None = None

    @classmethod
    def open(cls, config: PublishConfig, *, waits: bool = False) -> Self:
        """Connect to the configured Redis, or start or join the embedded server, and own that connection.

        Raises:
            PublishError: the URL is wrong, or the server refuses, or, unless ``waits``, it cannot be reached.
        """
        with contextlib.ExitStack() as owned:
            embedded = owned.enter_context(EmbeddedRedis.start()) if config.redis is None else None
            url = embedded.url if embedded else str(config.redis)
            client = owned.enter_context(contextlib.closing(connect(url, waits=waits)))
            publisher = cls(client, config, url=url)
            publisher._embedded, publisher._owned = embedded, owned.pop_all()
        return publisher

    def publish(self, record: Record) -> Outcome:
        """Publish one record; see :meth:`publish_many`."""
        return self.publish_many([record])[0]

    def publish_many(self, records: Sequence[Record]) -> list[Outcome]:
        """Append ``records`` in order, numbering those without a sequence.

        Raises:
            PublishError: Redis stayed away longer than the patience lasts, or refused. What was appended by then
                is recognised as duplicate when the same records are published again.
        """
        outcomes: list[Outcome] = []
        with self._lock:
            numbered = [self._numbering.number(record) for record in records]
            deadline = time.monotonic() + self._patience
            for start in range(0, len(numbered), _BATCH):
                outcomes += self._persist(numbered[start : start + _BATCH], deadline)
        return outcomes

    def append(
        self, records: Sequence[Fields], runs: dict[int, str] | None = None, asked: Iterable[int] = ()
    ) -> list[Outcome]:
        """Append numbered records, in one attempt; arguments as of :func:`streamfer.publish.append.append`.

        Raises:
            ForgottenError: the server is another than in ``runs``.
            redis.RedisError, OSError: it failed; appending all of them again is safe.
        """
        if runs is not None and is_watched(self.url) and time.monotonic() >= self._next_look:
            # A primary that was replaced takes records for some seconds more, and forgets them.
            self._client.connection_pool.get_master_address()  # type: ignore[attr-defined]
            self._next_look = time.monotonic() + _LOOK_SECONDS
        return append(self._client, self.keys, self._config, records, runs, asked)

    def evicted(self) -> str:
        """Return one line where the server, full, has removed keys since the last call; else nothing.

        Raises:
            redis.RedisError, OSError: the server does not answer.
        """
        before, self._evicted = self._evicted, sum(run.get("evicted_keys", 0) for run in self._information("stats"))
        if before is None or self._evicted <= before:
            return ""
        (policy, *_) = (str(run.get("maxmemory_policy")) for run in self._information("memory"))
        what = "records" if policy.startswith("allkeys") else "marks, without which what is sent again comes twice"
        return (
            f"Redis at {redact_url(self.url)} is full and throws away {what} (maxmemory-policy {policy}); "
            "raise its maxmemory, or keep fewer entries, and set the policy to noeviction"
        )

    def _information(self, section: str) -> list[Mapping[str, Any]]:
        """Return a section of what each primary says of itself."""
        primaries = {"target_nodes": RedisCluster.PRIMARIES} if is_cluster(self.url) else {}
        found: Any = self._client.info(section, **primaries)
        return list(found.values()) if primaries else [found]

    def revive(self) -> None:
        """Start the embedded server again where nobody guards it any more; nothing for other servers."""
        if self._embedded:
            self._embedded.ensure()

    def heartbeat(self, statuses: Mapping[str, Mapping[str, str | int | float]], ttl: int = 30) -> None:
        """Write the status hashes of sources, which vanish ``ttl`` seconds later.

        Raises:
            PublishError: Redis is away or refuses; a heartbeat is not worth waiting for.
        """
        try:
            for source_id, status in statuses.items():
                key = self.keys.status(source_id)
                fields: dict[Any, Any] = {**status, "updated": f"{time.time():.3f}"}
                with self._client.pipeline(transaction=True) as pipeline:
                    pipeline.delete(key)
                    pipeline.hset(key, mapping=fields)
                    pipeline.expire(key, ttl)
                    pipeline.execute()
        except TROUBLE as error:
            raise PublishError(explain(self.url, error)) from error

    def asked(self, sources: Sequence[str]) -> frozenset[str]:
        """Return those of some sources that somebody wants to see.

        Raises:
            redis.RedisError, OSError: it failed.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            for source_id in sources:
                pipeline.exists(self.keys.asked(source_id))
            return frozenset(name for name, found in zip(sources, pipeline.execute(), strict=True) if found)

    def show(self, source_id: str, picture: bytes, ttl: int = 3) -> None:
        """Let a picture of a source be seen for ``ttl`` seconds.

        Raises:
            redis.RedisError, OSError: it failed.
        """
        self._client.set(self.keys.preview(source_id), picture, ex=ttl)

    def disconnect(self) -> None:
        """Break the connections, so that who waits for the server waits no more."""
        disconnect(self._client)

    def close(self) -> None:
        """Close what :meth:`open` opened; may be called twice."""
        self._owned.close()

    def _persist(self, records: Sequence[Fields], deadline: float) -> list[Outcome]:
        pause = _PAUSE_SECONDS
        while True:
            try:
                return self.append(records)
            except TROUBLE as error:
                if not can_pass(error) or time.monotonic() + pause > deadline:
                    raise PublishError(explain(self.url, error)) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
