"""What following records means: one core, which a subscription of asyncio has work in a thread."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from datetime import datetime
from functools import partial
from typing import Annotated, Any, cast

from pydantic import Field, Strict

from streamfer.arguments import checked
from streamfer.errors import ConfigError, PublishError
from streamfer.publish.connection import TROUBLE, Told, can_pass, explain, is_cluster, is_watched, make_client
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.publish.group import MAX_DELIVERIES, GroupMember
from streamfer.publish.keys import USUAL_STREAMS, Keys, StreamName
from streamfer.publish.order import Lost
from streamfer.publish.reading import PAUSE_SECONDS, Entry, Follower, Reader, Start
from streamfer.records import Record

# Above the time a read blocks, so that a quiet stream is not taken for a dead server.
_ANSWER_SECONDS = 5.0
# Records are handed out within a second of a trouble's end.
_LONGEST_PAUSE_SECONDS = 0.5
#: Between looks at the partitions of a Cluster, which no single command can wait for.
_LOOK_SECONDS = 0.02
#: Between questions who is the primary now.
_SENTINEL_SECONDS = 1.0

# For ever, too.
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=True)]
_Some = Annotated[str, Field(min_length=1)]
_Handed = tuple[Reader, Entry, str]

log = logging.getLogger(__name__)


class Following:
    """Follows records; arguments and attributes are those of :class:`streamfer.publish.subscription.Subscription`."""

    _client: Any = None
    _embedded: EmbeddedRedis | None = None

    @checked
    def __init__(
        self,
        url: str | None = None,
        *,
        streams: str | Sequence[str] = USUAL_STREAMS,
        since: str | Annotated[datetime, Strict()] = "new",
        group: _Some | None = None,
        consumer: _Some | None = None,
        manual_commit: bool = False,
        sources: str | Sequence[str] | Set[str] | None = None,
        prefix: str = "streamfer",
        partitions: Annotated[int, Field(ge=1, le=1024)] = 1,
        block_s: Annotated[float, Field(ge=0, le=3600)] = 2.0,
        idle_s: _Seconds | None = None,
        reconnect_s: _Seconds = 300.0,
        claim_idle_s: Annotated[float, Field(ge=0, le=1e9)] = 60.0,
        claim_every_s: Annotated[float, Field(ge=0, le=1e9)] = 15.0,
        on_lost: Callable[[Lost], object] | None = None,
    ) -> None:
        if isinstance(streams, str):
            streams = [name.strip() for name in streams.split(",")]
        if manual_commit and group is None:
            raise ConfigError("manual_commit: what is not committed comes again in a group alone; name one")
        self._url = url
        self._answer_s = block_s + _ANSWER_SECONDS
        self.places: dict[str, str] = {}
        self.skipped = 0
        self.lost = 0
        self._closed = self._broken_off = False
        # Ends a wait between two tries.
        self._stopped = threading.Event()
        self._told = Told()
        self._sources = None if sources is None else frozenset([sources] if isinstance(sources, str) else sources)
        self.idle_s = idle_s
        self._block_s, self._reconnect_s, self._on_lost = block_s, reconnect_s, on_lost
        self._manual = manual_commit
        # By stream and id what was handed out; then what is to be acknowledged, or rejected where there is a reason.
        self._held: dict[tuple[str, str], _Handed] = {}
        self._done: list[_Handed] = []
        self._next_look = 0.0
        self._primary: Any = None
        start = Start(since)
        keys = Keys(prefix, partitions).streams(cast("Sequence[StreamName]", streams), self._sources)
        # The braces of the keys: what lies in one slot of a Cluster.
        slots = sorted({key.partition("}")[0] for key in keys}) if is_cluster(url) else [""]
        self._slots = [[key for key in keys if key.startswith(slot)] for slot in slots]
        self._readers: list[Reader] = []
        self._reader: Callable[..., Reader] = partial(Follower, start=start)
        if group is not None:
            member = partial(GroupMember, group=group, consumer=consumer, start=start)
            self._reader = partial(member, claim_idle=claim_idle_s, claim_every=claim_every_s)
        self._begin()

    def _begin(self) -> None:
        """Whatever else a beginning takes."""

    def _connect(self) -> None:
        """See that the server answers, and find the place to begin (PublishError)."""
        if self._url is None:
            self._embedded = EmbeddedRedis.start()
            self._url = self._embedded.url
        self._client = make_client(self._url, socket_timeout=self._answer_s)
        self._readers = [self._reader(self._client, keys) for keys in self._slots]
        try:
            self._client.ping()
            for reader in self._readers:
                reader.prepare()
                self._tell(reader)
        except BaseException as error:
            self._let_go()
            if isinstance(error, (*TROUBLE, UnicodeError)):
                raise PublishError(explain(self._url, error)) from error
            raise

    def _next(self) -> tuple[Reader, Entry] | None:
        """What is to be handed out next; None when this was closed or broken off, or nothing came for ``idle_s``."""
        deadline = None if self.idle_s is None else time.monotonic() + self.idle_s
        if not self._manual:
            self._settle()
        asked = False
        while not (self._closed or self._broken_off):
            if self._done:
                with self._guarded(self._done[0][0]):
                    self._finish()
            for reader in self._readers if not self._done else ():
                while (entry := reader.take()) is not None:
                    with self._guarded(reader):
                        if self._accept(reader, entry):
                            return reader, entry
            # Settling may take as long as the wait may: what lies there has to be asked for once.
            if deadline is not None and time.monotonic() >= deadline and (asked or self._done):
                break
            left = self._block_s if deadline is None else min(self._block_s, max(0.001, deadline - time.monotonic()))
            if not self._done:
                self._fetch(left)
                asked = True
            else:
                self._wait(min(left, self._done[0][0].rest()))
        return None

    def _hand_out(self, reader: Reader, entry: Entry) -> Record:
        """Note what is handed out now."""
        self._held[entry.stream, entry.id] = (reader, entry, "")
        self.places[entry.stream] = entry.id
        return cast("Record", entry.record)

    def reject(self, record: Record, reason: str) -> None:
        """Have the next commit put a record into the dead-letter stream: its effect cannot be had.

        Raises:
            ConfigError: the record was not handed out, or is committed.
        """
        mine = {key: handed for key, handed in self._held.items() if handed[1].record is record}
        if not mine:
            raise ConfigError(f"record {record.id}: it was not handed out here, or is committed; reject it before")
        self._held |= {key: (reader, entry, reason) for key, (reader, entry, _) in mine.items()}

    def _settle(self) -> None:
        """The effect of all that was handed out is done."""
        self._done += self._held.values()
        self._held = {}

    def _commit(self) -> None:
        """Acknowledge what was handed out (PublishError)."""
        self._settle()
        try:
            self._finish()
        except TROUBLE as error:
            raise PublishError(explain(str(self._url), error)) from error

    def _finish(self) -> None:
        """Acknowledge what is done."""
        while self._done:
            reader, first, reason = self._done[0]
            alike = [entry for _, entry, why in self._done if (entry.stream, why) == (first.stream, reason)]
            for entry in alike if reason else ():
                reader.reject(entry, reason)
            if not reason:
                reader.done(*alike)
            self._done = [one for one in self._done if (one[1].stream, one[2]) != (first.stream, reason)]

    def _leave(self) -> None:
        """Say what is in doubt and that no more entries will be asked for, and let go of the server."""
        try:
            for reader in self._readers:
                reader.losses += reader.order.settle(now=True)
                self._tell(reader)
            for reader in self._readers:
                reader.leave()
        except TROUBLE as error:
            log.info("subscribe.left_silently", extra={"reason": explain(str(self._url), error)})
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for one in (self._client, self._embedded):
            if one is not None:
                one.close()

    def _fetch(self, seconds: float) -> None:
        """Fill the buffers; with one reader a read waits, several are looked at in turn."""
        several = len(self._readers) > 1
        if is_watched(self._url) and time.monotonic() >= self._next_look:
            # A primary that was replaced answers for some seconds more, and has nothing new.
            with self._guarded(self._readers[0]):
                self._ask_sentinels()
            self._next_look = time.monotonic() + _SENTINEL_SECONDS
        awake = [reader for reader in self._readers if not reader.rest()]
        for reader in awake:
            with self._guarded(reader):
                # Zero would block for ever.
                reader.fetch(None if several else max(1, int(seconds * 1000)))
            self._tell(reader)
        if not any(reader.buffer for reader in self._readers) and (several or not awake):
            self._wait(min(seconds, max(_LOOK_SECONDS, min(reader.rest() for reader in self._readers))))

    def _wait(self, seconds: float) -> None:
        """Wait, and see that the embedded server runs, where it was away."""
        self._stopped.wait(seconds)
        if self._embedded and any(reader.trouble_since is not None for reader in self._readers):
            with contextlib.suppress(PublishError):
                self._embedded.ensure()

    def _ask_sentinels(self) -> None:
        before, self._primary = self._primary, self._client.connection_pool.get_master_address()
        if before not in (None, self._primary):
            for reader in self._readers:
                reader.interrupted()

    @contextlib.contextmanager
    def _guarded(self, reader: Reader) -> Iterator[None]:
        """Ask the server; a trouble gives the reader a rest, and goes no further."""
        try:
            yield
        except TROUBLE as error:
            reader.interrupted()
            self._rest(reader, error)
        except BaseException:
            # Stopped within a command; what its reply held is with the server alone.
            reader.interrupted()
            raise
        else:
            if reader.trouble_since is not None:
                reader.trouble_since = None
                log.info("subscribe.reconnected")

    def _rest(self, reader: Reader, error: Exception) -> None:
        """Rest after a trouble, longer each time; raise where it cannot pass, or has lasted too long."""
        now = time.monotonic()
        if self._closed or self._broken_off:
            # By another thread, under a read that waits.
            return
        if reader.trouble_since is None:
            reader.trouble_since, reader.pause = now, PAUSE_SECONDS
        reason = explain(str(self._url), error)
        if not can_pass(error, served=True) or now - reader.trouble_since >= self._reconnect_s:
            raise PublishError(reason) from error
        if self._told.is_new(reason):
            log.warning("subscribe.disconnected", extra={"reason": reason})
        reader.rests_until = now + reader.pause
        reader.pause = min(2 * reader.pause, _LONGEST_PAUSE_SECONDS)

    def _accept(self, reader: Reader, entry: Entry) -> bool:
        """Whether an entry is to be handed out; others are done with."""
        if (entry.stream, entry.id) in self._held:
            # A trouble had all that is unfinished read again.
            return False
        if entry.fields is None:
            reader.losses.append(Lost(entry.stream, "", 1, "trimmed while it was with a member of the group"))
            self._tell(reader)
            reader.done(entry)
            return False
        record = entry.record
        fault = entry.fault
        if entry.deliveries > MAX_DELIVERIES and not self._manual:
            fault = f"delivered {entry.deliveries - 1} times without success"
        if record is None or fault:
            self.skipped += 1
            log.warning("subscribe.skipped", extra={"stream": entry.stream, "entry": entry.id, "reason": fault})
            reader.reject(entry, fault)
            return False
        new = self._sources is None or record.subject in self._sources
        if not new or (isinstance(reader, GroupMember) and reader.has_seen(entry)):
            reader.done(entry)
            return False
        if isinstance(reader, Follower):
            new = reader.read(entry, record)
            self._tell(reader)
        return new

    def _tell(self, reader: Reader) -> None:
        losses, reader.losses = reader.losses, []
        for lost in losses:
            self.lost += lost.count
            told = {"stream": lost.stream, "source": lost.subject, "entries": lost.count, "reason": lost.why}
            if self._on_lost is not None:
                self._on_lost(lost)
            else:
                log.warning("subscribe.lost", extra=told)
