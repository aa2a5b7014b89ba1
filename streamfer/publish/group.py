"""Reading as a member of a consumer group: each entry goes to one member, and again until its effect is done."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis import exceptions as faults

from streamfer.publish.append import entry_number, text
from streamfer.publish.keys import Keys
from streamfer.publish.order import Lost
from streamfer.publish.reading import ABSENT, TRIMMED, Entry, Reader, Start
from streamfer.records import Record

_PREFETCH = 16
_CLAIM_BATCH = 100
_DEAD_ENTRIES = 10_000
MAX_DELIVERIES = 5

_LEAVE_LUA = Path(__file__).with_name("leave.lua").read_text(encoding="utf-8")
_CLAIM_LUA = "return redis.call('XAUTOCLAIM', KEYS[1], unpack(ARGV))"
_PROGRESS_LUA = Path(__file__).with_name("progress.lua").read_text(encoding="utf-8")
_PROGRESS_SECONDS = 30 * 86_400
_LOOKED_BACK = 1000

log = logging.getLogger(__name__)


class GroupMember(Reader):
    """Reads by XREADGROUP: first what this consumer left unfinished, then what others left, then new entries.

    Group, consumer and times are those of :class:`streamfer.publish.subscription.Subscription`; the streams lie in one
    slot where the server is a Cluster.
    """

    alone = False

    def __init__(
        self,
        client: Any,
        streams: Sequence[str],
        group: str,
        consumer: str | None,
        start: Start,
        *,
        claim_idle: float = 60.0,
        claim_every: float = 15.0,
    ) -> None:
        super().__init__(client, streams)
        self._group = group
        self._consumer = consumer or f"{socket.gethostname()}-{os.getpid()}"
        self._transient = consumer is None
        self._start = start
        self._claim_idle, self._claim_every = claim_idle, claim_every
        self._next_claim = 0.0
        self._fetched = 0.0
        # Streams of which this consumer may have unfinished entries, with the last one already handed out.
        self._unfinished: dict[str, str] = {}

    def prepare(self) -> None:
        """Create the group where it does not exist, and begin with what is unfinished.

        Abandoned entries are looked for from the first timer on: at once, a fleet that restarts together would
        take each other's entries away.
        """
        for stream in self._streams:
            self._create(stream, self._start.place(self.client, stream))
        self._next_claim = time.monotonic() + min(self._claim_every, self._claim_idle)
        self.interrupted()
        self.look()

    def take(self) -> Entry | None:
        if self.buffer and time.monotonic() - self._fetched > self._claim_idle / 2:
            # So slow a consumer may be about to lose these to another: ask which are still its own.
            self.interrupted()
        return super().take()

    def fetch(self, block_ms: int | None) -> None:
        try:
            if time.monotonic() >= self._next_look:
                self.look()
            self._fetch(block_ms)
        except faults.ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED the stream")):
                raise
            # The server came back empty, or somebody removed the stream: all that is there now is new to us.
            if self._told.is_new(str(error)):
                log.warning("subscribe.group_lost", extra={"group": self._group, "reason": str(error)})
            self.look()
            for stream in self._streams:
                self._create(stream, "0")

    def done(self, *entries: Entry) -> None:
        self.client.xack(entries[0].stream, self._group, *(entry.id for entry in entries))
        for entry in entries:
            self._see(entry)

    def reject(self, entry: Entry, reason: str) -> None:
        """Move the entry to the dead-letter stream of its slot, with the reason beside its fields."""
        fields: dict[Any, Any] = {
            **(entry.fields or {}),
            "dead_stream": entry.stream,
            "dead_entry": entry.id,
            "dead_group": self._group,
            "dead_deliveries": entry.deliveries,
            "dead_reason": reason,
        }

        pipeline = self.client.pipeline(transaction=True)
        pipeline.xadd(Keys.dead(entry.stream), fields, maxlen=_DEAD_ENTRIES, approximate=True)
        pipeline.xack(entry.stream, self._group, entry.id)
        pipeline.execute()

    def interrupted(self) -> None:
        """Forget what was fetched: the server remembers it as unfinished, and more whose reply was lost."""
        super().interrupted()
        self.buffer.clear()
        self._unfinished = dict.fromkeys(self._streams, "0")

    def leave(self) -> None:
        """Remove a consumer whose name nobody will use again, unless it leaves unfinished entries to claim."""
        for stream in self._streams if self._transient else ():
            self.client.eval(_LEAVE_LUA, 1, stream, self._group, self._consumer)

    def _create(self, stream: str, place: str) -> None:
        try:
            self.client.xgroup_create(stream, self._group, id=place, mkstream=True)
        except faults.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _fetch(self, block_ms: int | None) -> None:
        if time.monotonic() >= self._next_claim:
            self._next_claim = time.monotonic() + self._claim_every
            for stream in self._streams:
                self._claim(stream)
        while self._unfinished:
            if self._resume():
                return
        new: dict[Any, Any] = dict.fromkeys(self._streams, ">")
        if block_ms is not None:
            # A quiet stream must not keep this member from looking for abandoned entries; zero would block for ever.
            block_ms = max(1, min(block_ms, int((self._next_claim - time.monotonic()) * 1000)))
        reply = self.client.xreadgroup(self._group, self._consumer, new, count=_PREFETCH, block=block_ms)
        self._fetched = time.monotonic()
        for stream, items in reply or []:
            entries = [Entry.of(stream, number, fields) for number, fields in items]
            self.buffer.extend(entries)
            self._progress(entries)
            for entry in entries:
                self._advance(entry)

    def _progress(self, entries: Sequence[Entry]) -> None:
        """Tell the others how far this member has read, and note what was lost before any of the group read it."""
        numbered = [(entry, entry.record) for entry in entries if entry.record and entry.record.sequence is not None]
        if not numbered:
            return
        stream = entries[0].stream
        latest = {record.subject: record for _, record in numbered}
        words = [part for key, record in latest.items() for part in (key, str(record.sequence), record.run_id)]
        reply = self.client.eval(
            _PROGRESS_LUA, 2, stream, f"{stream}:read:{self._group}", entries[0].id, str(_PROGRESS_SECONDS), *words
        )
        for subject, known in zip(latest, map(text, reply[1:]), strict=True):
            if known:
                number, _, run = known.partition(" ")
                self.order.know(stream, subject, run, int(number), entry_number(entries[0].id))
        # Where older entries are left, what is missing is with another member, unless the stream went back.
        others = set() if reply[0] else set(latest)
        for entry, record in numbered:
            wanted = self.order.expected(stream, record)[0]
            missing, why = self.missing_before(entry, record)
            if wanted is None or missing <= 0:
                pass
            elif why in (TRIMMED, ABSENT):
                if record.subject not in others:
                    self.losses.append(Lost(stream, record.subject, missing, why))
            elif self._lacks(entry, record, wanted):
                # Nobody knows what other members read of it before.
                self.losses.append(Lost(stream, record.subject, 0, why))
            others.discard(record.subject)

    def _lacks(self, entry: Entry, record: Record, wanted: int) -> bool:
        """Whether some of a source's records from one number to this entry are not in the stream."""
        before: Any = self.client.xrange(entry.stream, "-", entry.id, count=_LOOKED_BACK)
        found = [Entry.of(entry.stream, number, fields).record for number, fields in before]
        held = {one.sequence for one in found if one and (one.subject, one.run_id) == (record.subject, record.run_id)}
        return not held.issuperset(range(wanted, record.sequence or 0))

    def _resume(self) -> bool:
        """Fetch one unfinished entry; False when a stream has no more.

        One at a time: the server counts a delivery for every entry that it hands out, and an entry that kills
        its consumer must not bring those behind it to the dead-letter stream.
        """
        stream, place = next(iter(self._unfinished.items()))
        reply = self.client.xreadgroup(self._group, self._consumer, {stream: place}, count=1)
        items = reply[0][1] if reply else []
        if not items:
            del self._unfinished[stream]
            return False
        number, fields = text(items[0][0]), items[0][1]
        pending = self.client.xpending_range(stream, self._group, min=number, max=number, count=1)
        self._unfinished[stream] = number
        deliveries = int(pending[0]["times_delivered"]) if pending else 1
        self._fetched = time.monotonic()
        self.buffer.append(Entry.of(stream, number, fields, deliveries))
        return True

    def _claim(self, stream: str) -> None:
        """Make abandoned entries this consumer's unfinished ones; JUSTID leaves their delivery count alone."""
        idle = str(int(self._claim_idle * 1000))
        # In a script: redis-py drops the third part of the command's reply.
        words = (self._group, self._consumer, idle, "0-0", "COUNT", str(_CLAIM_BATCH), "JUSTID")
        reply = self.client.eval(_CLAIM_LUA, 1, stream, *words)
        claimed = reply[1]
        # Redis 7 and later name here what was trimmed while pending; 6.2 hands it out without fields.
        lost = reply[2] if len(reply) > 2 else []
        if claimed:
            log.info("subscribe.claimed", extra={"stream": stream, "group": self._group, "entries": len(claimed)})
            self._unfinished[stream] = "0"
        if lost:
            self.losses.append(Lost(stream, "", len(lost), "trimmed while they were with a member of the group"))
