"""Reading as a member of a consumer group: each entry goes to one member, and again until its effect is done."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
from redis import exceptions as faults

from streamfer.errors import ConfigError
from streamfer.publish.reading import Entry, check_start

_PREFETCH = 16
_CLAIM_BATCH = 100
_DEAD_ENTRIES = 10_000
MAX_DELIVERIES = 5

# A consumer that is removed takes its pending entries with it, so both are looked at in one step.
_LEAVE_LUA = """
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  if consumer[2] == ARGV[2] and consumer[4] == 0 then
    return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
  end
end
return 0
"""

log = logging.getLogger(__name__)


class GroupMember:
    """Reads by XREADGROUP: first what this consumer left unfinished, then what others left, then new entries.

    Args:
        streams: keys.
        group: name of the consumer group; created where it does not exist.
        consumer: name of this member. A stable name finds its unfinished entries at once after a restart; without
            one the name is host and process, and what a dead process left is claimed after ``claim_idle`` seconds.
        start: where a group that is new begins: ``new``, ``start`` or an entry id.
        claim_idle: seconds after which another member's unfinished entry counts as abandoned; more than three
            times what handling a batch of 16 takes.
        claim_every: seconds between looks for abandoned entries.
    """

    def __init__(
        self,
        streams: Sequence[str],
        group: str,
        consumer: str | None,
        start: str,
        *,
        claim_idle: float = 60.0,
        claim_every: float = 15.0,
    ) -> None:
        if not group:
            raise ConfigError("consumer group: the name is empty")
        self.lost = 0
        self._streams = list(streams)
        self._group = group
        self._consumer = consumer or f"{socket.gethostname()}-{os.getpid()}"
        self._transient = consumer is None
        self._start = {"new": "$", "start": "0"}.get(check_start(start), start)
        self._claim_idle, self._claim_every = claim_idle, claim_every
        self._next_claim = 0.0
        self._buffer: deque[Entry] = deque()
        self._fetched = 0.0
        # Streams of which this consumer may have unfinished entries, with the last one already handed out.
        self._unfinished: dict[str, str] = {}

    def prepare(self, client: redis.Redis) -> None:
        """Create the group where it does not exist, and begin with what is unfinished.

        Abandoned entries are looked for from the first timer on: at once, a fleet that restarts together would
        take each other's entries away.
        """
        client.set_response_callback("XAUTOCLAIM", _unparsed)
        self._create(client, self._start)
        self._next_claim = time.monotonic() + min(self._claim_every, self._claim_idle)
        self.interrupted()

    def next_entry(self, client: redis.Redis, block_ms: int) -> Entry | None:
        """See :class:`streamfer.publish.reading.Reader`."""
        if self._buffer and time.monotonic() - self._fetched > self._claim_idle / 2:
            # So slow a consumer may be about to lose these to another: ask which are still its own.
            self.interrupted()
        if self._buffer:
            return self._buffer.popleft()
        try:
            return self._fetch(client, block_ms)
        except faults.ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            # The server came back empty, or somebody removed the stream: all that is there now is new to us.
            log.warning("subscribe.group_lost", extra={"group": self._group, "reason": str(error)})
            self._create(client, "0")
            return None

    def done(self, client: redis.Redis, entry: Entry) -> None:
        """Acknowledge the entry."""
        client.xack(entry.stream, self._group, entry.id)

    def reject(self, client: redis.Redis, entry: Entry, reason: str) -> None:
        """Move the entry to the dead-letter stream of its slot, with the reason beside its fields."""
        dead = f"{entry.stream.rpartition(':')[0]}:dead"
        fields: dict[Any, Any] = {
            **(entry.fields or {}),
            "dead_stream": entry.stream,
            "dead_entry": entry.id,
            "dead_group": self._group,
            "dead_deliveries": entry.deliveries,
            "dead_reason": reason,
        }
        with client.pipeline(transaction=True) as pipeline:
            pipeline.xadd(dead, fields, maxlen=_DEAD_ENTRIES, approximate=True)
            pipeline.xack(entry.stream, self._group, entry.id)
            pipeline.execute()

    def interrupted(self) -> None:
        """Forget what was fetched: the server remembers it as unfinished, and more whose reply was lost."""
        self._buffer.clear()
        self._unfinished = dict.fromkeys(self._streams, "0")

    def leave(self, client: redis.Redis) -> None:
        """Remove a consumer whose name nobody will use again, unless it leaves unfinished entries to claim."""
        if self._transient:
            for stream in self._streams:
                client.eval(_LEAVE_LUA, 1, stream, self._group, self._consumer)

    def _create(self, client: redis.Redis, start: str) -> None:
        for stream in self._streams:
            try:
                client.xgroup_create(stream, self._group, id=start, mkstream=True)
            except faults.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def _fetch(self, client: redis.Redis, block_ms: int) -> Entry | None:
        if time.monotonic() >= self._next_claim:
            self._next_claim = time.monotonic() + self._claim_every
            self._claim(client)
        while self._unfinished:
            entry = self._resume(client)
            if entry is not None:
                return entry
        new: dict[Any, Any] = dict.fromkeys(self._streams, ">")
        # A quiet stream must not keep this member from looking for abandoned entries; zero would block for ever.
        block_ms = max(1, min(block_ms, int((self._next_claim - time.monotonic()) * 1000)))
        reply: Any = client.xreadgroup(self._group, self._consumer, new, count=_PREFETCH, block=block_ms)
        for stream, items in reply or []:
            self._buffer.extend(Entry(_text(stream), _text(number), fields) for number, fields in items)
        self._fetched = time.monotonic()
        return self._buffer.popleft() if self._buffer else None

    def _resume(self, client: redis.Redis) -> Entry | None:
        """One unfinished entry, or None when a stream has no more.

        One at a time: the server counts a delivery for every entry that it hands out, and an entry that kills
        its consumer must not bring those behind it to the dead-letter stream.
        """
        stream, place = next(iter(self._unfinished.items()))
        reply: Any = client.xreadgroup(self._group, self._consumer, {stream: place}, count=1)
        items = reply[0][1] if reply else []
        if not items:
            del self._unfinished[stream]
            return None
        number, fields = _text(items[0][0]), items[0][1]
        self._unfinished[stream] = number
        pending: Any = client.xpending_range(stream, self._group, min=number, max=number, count=1)
        deliveries = int(pending[0]["times_delivered"]) if pending else 1
        return Entry(stream, number, fields or None, deliveries)

    def _claim(self, client: redis.Redis) -> None:
        """Make abandoned entries this consumer's unfinished ones; JUSTID leaves their delivery count alone."""
        for stream in self._streams:
            reply: Any = client.xautoclaim(
                stream,
                self._group,
                self._consumer,
                min_idle_time=int(self._claim_idle * 1000),
                count=_CLAIM_BATCH,
                justid=True,
            )
            claimed = reply[1]
            # Redis 7 and later name here what was trimmed while pending; 6.2 hands it out without fields.
            lost = reply[2] if len(reply) > 2 else []
            if claimed:
                log.info("subscribe.claimed", extra={"stream": stream, "group": self._group, "entries": len(claimed)})
                self._unfinished[stream] = "0"
            if lost:
                self.lost += len(lost)
                log.warning("subscribe.lost", extra={"stream": stream, "group": self._group, "entries": len(lost)})


def _unparsed(reply: Any, **_options: Any) -> Any:
    # redis-py drops the third part of the reply, the lost entries.
    return reply


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
