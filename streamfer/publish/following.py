"""What following records means, free of any connection: one core that blocking and asyncio subscriptions drive."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence, Set
from datetime import datetime
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field, Strict

from streamfer.arguments import checked
from streamfer.errors import ConfigError, PublishError
from streamfer.publish.connection import TROUBLE, Told, can_pass, explain, is_cluster, is_watched
from streamfer.publish.group import MAX_DELIVERIES, GroupMember
from streamfer.publish.keys import USUAL_STREAMS, Keys, StreamName
from streamfer.publish.order import Lost
from streamfer.publish.reading import Entry, Follower, Reader, Start, Steps
from streamfer.records import Record

# Above the time a read blocks, so that a quiet stream is not taken for a dead server.
_ANSWER_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
# Records are handed out within a second of a trouble's end.
_LONGEST_PAUSE_SECONDS = 0.5
#: Between looks at the partitions of a Cluster, which no single command can wait for.
_LOOK_SECONDS = 0.02
#: Between questions who is the primary now.
_SENTINEL_SECONDS = 1.0

T = TypeVar("T")
_Seconds = Annotated[float, Field(ge=0)]
_Some = Annotated[str, Field(min_length=1)]
_Handed = tuple["_Lane", Entry, str]

log = logging.getLogger(__name__)


class _Lane:
    """What is read by one command, with the trouble it has."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.trouble_since: float | None = None
        self.pause = _PAUSE_SECONDS
        self.rests_until = 0.0

    def rest(self) -> float:
        """Seconds until it may be asked again."""
        return max(0.0, self.rests_until - time.monotonic())


class Following:
    """Follows records through generators of commands (:data:`streamfer.publish.reading.Steps`).

    Arguments and attributes are those of :class:`streamfer.publish.subscription.Subscription`.
    """

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
        self._closed = False
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
        self._lanes: list[_Lane] = []
        for slot in slots:
            reader: Reader
            mine = [key for key in keys if key.startswith(slot)]
            if group is None:
                reader = Follower(mine, start)
            else:
                reader = GroupMember(mine, group, consumer, start, claim_idle=claim_idle_s, claim_every=claim_every_s)
            self._lanes.append(_Lane(reader))
        self._begin()

    def _begin(self) -> None:
        """Whatever else a beginning takes."""

    def _prepare(self) -> Steps[None]:
        """See that the server answers, and find the place to begin."""
        yield lambda client: client.ping()
        for lane in self._lanes:
            yield from lane.reader.prepare()
            self._tell(lane)

    def _next(self) -> Steps[Record | None]:
        """The next record; None when this was closed, or none came for ``idle_s``."""
        deadline = None if self.idle_s is None else time.monotonic() + self.idle_s
        if not self._manual:
            self._settle()
        asked = False
        while not self._closed:
            if self._done:
                yield from self._guarded(self._done[0][0], self._finish())
            for lane in self._lanes if not self._done else ():
                while (entry := lane.reader.take()) is not None:
                    record = yield from self._guarded(lane, self._accept(lane, entry))
                    if record is not None:
                        return record
            # Settling may take as long as the wait may: what lies there has to be asked for once.
            if deadline is not None and time.monotonic() >= deadline and (asked or self._done):
                break
            left = self._block_s if deadline is None else min(self._block_s, max(0.001, deadline - time.monotonic()))
            if not self._done:
                yield from self._fetch(left)
                asked = True
            else:
                yield min(left, self._done[0][0].rest())
        return None

    def reject(self, record: Record, reason: str) -> None:
        """Have the next commit put a record into the dead-letter stream: its effect cannot be had.

        Raises:
            ConfigError: the record was not handed out, or is committed.
        """
        mine = {key: handed for key, handed in self._held.items() if handed[1].record is record}
        if not mine:
            raise ConfigError(f"record {record.id}: it was not handed out here, or is committed; reject it before")
        self._held |= {key: (lane, entry, reason) for key, (lane, entry, _) in mine.items()}

    def _settle(self) -> None:
        """The effect of all that was handed out is done."""
        self._done += self._held.values()
        self._held = {}

    def _finish(self) -> Steps[None]:
        """Acknowledge what is done."""
        while self._done:
            lane, first, reason = self._done[0]
            alike = [entry for _, entry, why in self._done if (entry.stream, why) == (first.stream, reason)]
            for entry in alike if reason else ():
                yield from lane.reader.reject(entry, reason)
            if not reason:
                yield from lane.reader.done(*alike)
            self._done = [one for one in self._done if (one[1].stream, one[2]) != (first.stream, reason)]

    def _leave(self) -> Steps[None]:
        """Say that no more entries will be asked for; first what is in doubt."""
        for lane in self._lanes:
            lane.reader.losses += lane.reader.order.settle(now=True)
            self._tell(lane)
        for lane in self._lanes:
            yield from lane.reader.leave()

    def _fetch(self, seconds: float) -> Steps[None]:
        """Fill the buffers; with one lane a read waits, several are looked at in turn."""
        several = len(self._lanes) > 1
        if is_watched(self._url) and time.monotonic() >= self._next_look:
            # A primary that was replaced answers for some seconds more, and has nothing new.
            yield from self._guarded(self._lanes[0], self._ask_sentinels())
            self._next_look = time.monotonic() + _SENTINEL_SECONDS
        awake = [lane for lane in self._lanes if not lane.rest()]
        for lane in awake:
            # Zero would block for ever.
            yield from self._guarded(lane, lane.reader.fetch(None if several else max(1, int(seconds * 1000))))
            self._tell(lane)
        if not any(lane.reader.buffer for lane in self._lanes) and (several or not awake):
            yield min(seconds, max(_LOOK_SECONDS, min(lane.rest() for lane in self._lanes)))

    def _ask_sentinels(self) -> Steps[None]:
        before, self._primary = self._primary, (yield lambda client: client.connection_pool.get_master_address())
        if before not in (None, self._primary):
            for lane in self._lanes:
                lane.reader.interrupted()

    def _guarded(self, lane: _Lane, steps: Steps[T]) -> Steps[T | None]:
        """Go these steps; a trouble gives the lane a rest and ends them with None."""
        try:
            reply = yield from steps
        except TROUBLE as error:
            lane.reader.interrupted()
            self._rest(lane, error)
            return None
        except BaseException:
            # Whoever drives was stopped within a command; what its reply held is with the server alone.
            lane.reader.interrupted()
            raise
        if lane.trouble_since is not None:
            lane.trouble_since = None
            log.info("subscribe.reconnected")
        return reply

    def _rest(self, lane: _Lane, error: Exception) -> None:
        """Rest after a trouble, longer each time; raise where it cannot pass, or has lasted too long."""
        now = time.monotonic()
        if self._closed:
            # By another thread, under a read that waits.
            return
        if lane.trouble_since is None:
            lane.trouble_since, lane.pause = now, _PAUSE_SECONDS
        reason = explain(str(self._url), error)
        if not can_pass(error, served=True) or now - lane.trouble_since >= self._reconnect_s:
            raise PublishError(reason) from error
        if self._told.is_new(reason):
            log.warning("subscribe.disconnected", extra={"reason": reason})
        lane.rests_until = now + lane.pause
        lane.pause = min(2 * lane.pause, _LONGEST_PAUSE_SECONDS)

    @property
    def _troubled(self) -> bool:
        """Whether the server was away when it was last asked."""
        return any(lane.trouble_since is not None for lane in self._lanes)

    def _accept(self, lane: _Lane, entry: Entry) -> Steps[Record | None]:
        reader = lane.reader
        if (entry.stream, entry.id) in self._held:
            # A trouble had all that is unfinished read again.
            return None
        if entry.fields is None:
            reader.losses.append(Lost(entry.stream, "", 1, "trimmed while it was with a member of the group"))
            self._tell(lane)
            yield from reader.done(entry)
            return None
        record = entry.record
        fault = entry.fault
        if entry.deliveries > MAX_DELIVERIES and not self._manual:
            fault = f"delivered {entry.deliveries - 1} times without success"
        if record is None or fault:
            self.skipped += 1
            log.warning("subscribe.skipped", extra={"stream": entry.stream, "entry": entry.id, "reason": fault})
            yield from reader.reject(entry, fault)
            return None
        new = self._sources is None or record.subject in self._sources
        if not new or (isinstance(reader, GroupMember) and reader.has_seen(entry)):
            yield from reader.done(entry)
            new = False
        elif isinstance(reader, Follower):
            new = yield from reader.read(entry, record)
            self._tell(lane)
        if not new:
            return None
        self._held[entry.stream, entry.id] = (lane, entry, "")
        self.places[entry.stream] = entry.id
        return record

    def _tell(self, lane: _Lane) -> None:
        losses, lane.reader.losses = lane.reader.losses, []
        for lost in losses:
            self.lost += lost.count
            told = {"stream": lost.stream, "source": lost.subject, "entries": lost.count, "reason": lost.why}
            if self._on_lost is not None:
                self._on_lost(lost)
            else:
                log.warning("subscribe.lost", extra=told)
