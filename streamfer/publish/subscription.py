"""Following records as a subscriber, alone or in a consumer group."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import redis

from streamfer.closing import Closing
from streamfer.errors import PublishError, RecordError
from streamfer.publish.connection import TROUBLE, can_pass, connect, explain
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.publish.group import MAX_DELIVERIES, GroupMember
from streamfer.publish.keys import STREAM_NAMES, Keys, StreamName
from streamfer.publish.reading import Entry, Follower, Reader
from streamfer.records import Gap, Record

# Above the time a read blocks, so that a quiet stream is not taken for a dead server.
_ANSWER_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_SOURCES_REMEMBERED = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that a source published and a subscriber will not see.

    Attributes:
        stream, subject: where they were.
        count: how many.
        why: one line.
    """

    stream: str
    subject: str
    count: int
    why: str


class _Order:
    """Compares the numbers of each source's records: those of one run follow one another without a hole."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()

    def compare(self, stream: str, record: Record) -> int:
        """Return how many records are missing before this one; less than 0 where it came before."""
        if record.sequence is None:
            return 0
        place, run = (stream, record.subject), record.data.producer.run_id
        known, number = self._last.get(place, ("", 0))
        if known == run and record.sequence <= number:
            return -1
        self._last[place] = (run, record.sequence)
        self._last.move_to_end(place)
        if len(self._last) > _SOURCES_REMEMBERED:
            self._last.popitem(last=False)
        return record.sequence - number - 1 if known == run else 0


def subscribe(
    url: str | None = None,
    *,
    streams: Sequence[StreamName] = STREAM_NAMES,
    from_: str = "new",
    group: str | None = None,
    consumer: str | None = None,
    sources: Iterable[str] | None = None,
    prefix: str = "streamfer",
    partitions: int = 1,
    block_s: float = 2.0,
    idle_s: float | None = None,
    reconnect_s: float = 300.0,
    claim_idle_s: float = 60.0,
    claim_every_s: float = 15.0,
    on_lost: Callable[[Lost], object] | None = None,
) -> Subscription:
    """Follow the records on ``url``, or on the embedded server where it is None.

    Connects and finds its place before it returns: what is published afterwards is delivered.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        streams: which of ``clips``, ``captions``, ``sources``.
        from_: ``new``, ``start`` (all that is kept) or the entry id after which to begin. With a group it
            counts only where the group is new.
        group, consumer: join a consumer group; see :class:`streamfer.publish.group.GroupMember`.
        sources: only records of these source ids.
        prefix, partitions: as the publishers have them.
        block_s: seconds a single read waits for new entries.
        idle_s: end the iteration when no record came for so many seconds; None follows for ever.
        reconnect_s: seconds to wait for a server that is away before giving up.
        claim_idle_s, claim_every_s: see :class:`streamfer.publish.group.GroupMember`.
        on_lost: without a group, called when a source's numbers show that records are missing (trimmed before they
            were read, or lost by the server); they count in ``lost``, too.

    Raises:
        PublishError: the server cannot be reached, or refuses.
        ConfigError: an argument is wrong.
    """
    wanted = None if sources is None else frozenset(sources)
    keys = Keys(prefix, partitions).streams(streams, wanted)
    reader: Reader
    if group is None:
        reader = Follower(keys, from_)
    else:
        reader = GroupMember(keys, group, consumer, from_, claim_idle=claim_idle_s, claim_every=claim_every_s)
    embedded = None if url is not None else EmbeddedRedis.start()
    address = embedded.url if embedded else str(url)
    try:
        client = connect(address, socket_timeout=block_s + _ANSWER_SECONDS)
        return Subscription(
            reader,
            client,
            address,
            embedded,
            sources=wanted,
            block_s=block_s,
            idle_s=idle_s,
            reconnect_s=reconnect_s,
            on_lost=on_lost,
        )
    except BaseException:
        if embedded:
            embedded.close()
        raise


class Subscription(Closing, Iterator[Record]):
    """An iterator over records that survives restarts of the server; made by :func:`subscribe`.

    In a group a record is acknowledged when the next one is asked for: by then its effect is done. A consumer
    that dies between gets it again, so effects should bear repetition; ``record.id`` tells a repetition. A record
    that was delivered more than five times, or cannot be read, goes to the dead-letter stream.

    Attributes:
        places: stream key to id of the last entry that was handed out; resume from it with ``from_``.
        skipped: entries that could not be read as records.
    """

    def __init__(
        self,
        reader: Reader,
        client: redis.Redis,
        url: str,
        embedded: EmbeddedRedis | None = None,
        *,
        sources: frozenset[str] | None = None,
        block_s: float = 2.0,
        idle_s: float | None = None,
        reconnect_s: float = 300.0,
        on_lost: Callable[[Lost], object] | None = None,
    ) -> None:
        self.places: dict[str, str] = {}
        self.skipped = 0
        self._lost = 0
        self._reader, self._client, self._url, self._embedded = reader, client, url, embedded
        self._sources, self._block_s, self._idle_s, self._reconnect_s = sources, block_s, idle_s, reconnect_s
        self._on_lost = on_lost
        self._order = _Order()
        self._current: Entry | None = None
        self._trouble_since: float | None = None
        self._pause = _PAUSE_SECONDS
        self._closed = threading.Event()
        try:
            reader.prepare(client)
        except TROUBLE as error:
            client.close()
            raise PublishError(explain(url, error)) from error

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        """Wait for the next record.

        Raises:
            StopIteration: the subscription was closed, or idle for ``idle_s``.
            PublishError: the server stayed away for ``reconnect_s``, or refuses.
        """
        deadline = None if self._idle_s is None else time.monotonic() + self._idle_s
        while not self._closed.is_set():
            record = self._attempt(deadline)
            if record is not None:
                return record
            if deadline is not None and time.monotonic() >= deadline:
                break
        raise StopIteration

    @property
    def lost(self) -> int:
        """Records that were published and never seen here, as far as they can be counted."""
        return self._lost + self._reader.lost

    def commit(self) -> None:
        """Acknowledge the record handed out last without asking for another, for example before stopping.

        Raises:
            PublishError: the server is away or refuses; the record will be delivered again.
        """
        try:
            self._finish()
        except TROUBLE as error:
            raise PublishError(explain(self._url, error)) from error

    def close(self) -> None:
        """Leave; a record that was handed out last and not committed stays unfinished. May be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            self._reader.leave(self._client)
        except TROUBLE as error:
            log.info("subscribe.left_silently", extra={"reason": explain(self._url, error)})
        finally:
            self._client.close()
            if self._embedded:
                self._embedded.close()

    def _attempt(self, deadline: float | None) -> Record | None:
        block = self._block_s
        if deadline is not None:
            # Zero would block for ever.
            block = min(block, max(0.001, deadline - time.monotonic()))
        try:
            self._finish()
            entry = self._reader.next_entry(self._client, max(1, int(block * 1000)))
            record = None if entry is None else self._accept(entry)
        except TROUBLE as error:
            self._wait_out(error)
            return None
        if self._trouble_since is not None:
            self._trouble_since = None
            log.info("subscribe.reconnected")
        return record

    def _finish(self) -> None:
        if self._current is not None:
            self._reader.done(self._client, self._current)
            self._current = None

    def _accept(self, entry: Entry) -> Record | None:
        if entry.fields is None:
            self._lost += 1
            log.warning("subscribe.lost", extra={"stream": entry.stream, "entry": entry.id})
            self._reader.done(self._client, entry)
            return None
        if entry.deliveries > MAX_DELIVERIES:
            self._refuse(entry, f"delivered {entry.deliveries - 1} times without success")
            return None
        try:
            record = Record.from_fields(entry.fields)
        except RecordError as error:
            self._refuse(entry, str(error))
            return None
        if self._sources is not None and record.subject not in self._sources:
            self._reader.done(self._client, entry)
            return None
        if isinstance(self._reader, Follower):
            missing = self._order.compare(entry.stream, record)
            if missing < 0 and entry.stream in self._reader.rewound:
                return None
            if missing > 0 and not _tells(record):
                self._tell(Lost(entry.stream, record.subject, missing, "trimmed before they were read, or lost"))
        self._current = entry
        self.places[entry.stream] = entry.id
        return record

    def _tell(self, lost: Lost) -> None:
        self._lost += lost.count
        log.warning("subscribe.lost", extra={"stream": lost.stream, "source": lost.subject, "entries": lost.count})
        if self._on_lost is not None:
            self._on_lost(lost)

    def _refuse(self, entry: Entry, reason: str) -> None:
        self.skipped += 1
        log.warning("subscribe.skipped", extra={"stream": entry.stream, "entry": entry.id, "reason": reason})
        self._reader.reject(self._client, entry, reason)

    def _wait_out(self, error: Exception) -> None:
        """Pause after a trouble, longer each time; raise where it cannot pass, or has lasted too long."""
        now = time.monotonic()
        if self._trouble_since is None:
            self._trouble_since, self._pause = now, _PAUSE_SECONDS
            log.warning("subscribe.disconnected", extra={"reason": explain(self._url, error)})
        if not can_pass(error) or now - self._trouble_since >= self._reconnect_s:
            raise PublishError(explain(self._url, error)) from error
        self._reader.interrupted()
        if self._embedded:
            with contextlib.suppress(PublishError):
                self._embedded.ensure()
        self._closed.wait(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)


def _tells(record: Record) -> bool:
    """Whether a record says itself what is missing before it."""
    return isinstance(record.data, Gap) and record.data.unit == "records"
