"""Reading streams as they grow, each reader with its own cursor: nobody else is affected.

A reader lets out what redis-py raises; :mod:`streamfer.publish.following` puts readers together and outlives that.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import exceptions as faults

from streamfer.errors import ConfigError, RecordError
from streamfer.publish.append import entry_number, text
from streamfer.publish.connection import Told, can_pass, node_of
from streamfer.publish.order import Lost, Order
from streamfer.records import Record

_ENTRY_ID = re.compile(r"\d{1,20}(-\d{1,20})?")
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_BATCH = 64
#: Between tries, at first.
PAUSE_SECONDS = 0.1
#: Between looks at streams that never come to rest.
_LOOK_SECONDS = 2.0
_RECORDS_REMEMBERED = 4096

#: How the place of a moment ends: no entry has that number.
_MOMENT = f"-{2**64 - 1}"

#: Why records are lost where no server is to blame.
TRIMMED = "trimmed before they were read"
ABSENT = "deleted, or never in the stream"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream."""

    stream: str
    id: str
    fields: Mapping[Any, Any] | None  #: what it holds; None where it was trimmed before it could be read
    deliveries: int = 1  #: how often a consumer group has handed it out
    record: Record | None = None
    fault: str = ""

    @classmethod
    def of(cls, stream: Any, number: Any, fields: Mapping[Any, Any] | None, deliveries: int = 1) -> Entry:
        """Make an entry of what the server said."""
        record, fault = None, ""
        try:
            record = Record.from_fields(fields) if fields else None
        except RecordError as error:
            fault = str(error)
        return cls(text(stream), text(number), fields or None, deliveries, record, fault)


class Reader(ABC):
    """A way to read one or more streams; after an exception reading goes on where it was."""

    alone = True  #: it reads every entry of its streams

    def __init__(self, client: Any, streams: Sequence[str]) -> None:
        self.client = client
        self._streams = list(streams)
        self.buffer: deque[Entry] = deque()  #: entries that were fetched and not handed out
        self.losses: list[Lost] = []  #: what was found missing and not told
        self.order = Order()  #: what was read of each source
        self.missing: Counter[str] = Counter()  #: by stream, what the numbers of sources showed to be missing
        # By stream: the id up to which it was read, and how many had been added by then, as far as is known.
        self._places: dict[str, str] = {}
        self._had: dict[str, int] = {}
        self._server: Mapping[str, Any] = {}
        self._told = Told()
        # By stream: records that were handed out, or, in a group, are done with.
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.trouble_since: float | None = None  #: when the server was first away that still is; None where it is not
        self.pause = PAUSE_SECONDS  #: between two tries
        self.rests_until = 0.0
        # Whether another server than before may answer, and what was found out on it.
        self._unsure, self._why = True, ""
        self._next_look = 0.0

    def rest(self) -> float:
        """Seconds until it may be asked again after a trouble."""
        return max(0.0, self.rests_until - time.monotonic())

    @abstractmethod
    def prepare(self) -> None:
        """Find the place to begin, before the first entry is asked for."""

    @abstractmethod
    def fetch(self, block_ms: int | None) -> None:
        """Fill the buffer, waiting ``block_ms`` at most for something new; not at all where it is None."""

    def take(self) -> Entry | None:
        """Return the next of the buffer; None where there is none that may be handed out."""
        return self.buffer.popleft() if self.buffer else None

    def done(self, *entries: Entry) -> None:  # noqa: B027 - only groups answer
        """The effect of these entries of one stream is done."""

    def reject(self, entry: Entry, reason: str) -> None:  # noqa: B027
        """The entry cannot be used."""

    def interrupted(self) -> None:
        """The connection was lost; what the server did meanwhile is not known."""
        self._unsure = True
        self._next_look = 0.0

    def look(self) -> None:
        """Hold what the server says of all streams against what was read of them."""
        self._next_look = time.monotonic() + _LOOK_SECONDS
        if self._unsure:
            self._why = self._why or self.recognise()
        for stream in self._streams:
            self._balance(stream, self.compare(stream, self._why))
        self._unsure, self._why = False, ""
        self.losses += self.order.settle()

    def recognise(self) -> str:
        """Ask which server answers, end all eras where it is another, and return how a stream could have gone back."""
        before = self._server
        self._server = now = _server_facts(self.client, self._streams[0])
        if not before or not now:
            return "the stream was restored from an older state, or another server's has its place"
        if before["run_id"] == now["run_id"]:
            return "the stream was emptied, or restored from an older state"
        why = "the server was started again, from an older state"
        if now.get("master_replid2") == before.get("master_replid"):
            why = "another server took over (failover), with an older state"
        for stream in self._streams:
            self.order.end_era(stream, why)
        return why

    def compare(self, stream: str, why: str = "") -> Mapping[str, Any]:
        """Return what the server says of a stream; where that is less than was read, what followed may be lost.

        ``why`` is how, where that was just asked. What is lost is told when the sources are heard again, or are not.
        """
        place = self._places.get(stream, "0-0")
        at = entry_number(place)
        # A moment was no entry's place: what stands before it was not asked for.
        read = at > (0, 0) and not place.endswith(_MOMENT)
        # Before the first entry is asked for, which is trimmed meanwhile.
        absent = bool(why) and read and not self.client.xrange(stream, place, place)
        facts = stream_facts(self.client, stream)
        first, last = first_entry(facts), last_entry(facts)
        # Servers before 7 do not say how many were added.
        added = facts.get("entries-added") if facts else 0
        went_back = (added is not None and added < self._had.get(stream, 0)) or (read and last < at)
        if absent and not went_back and first <= at > entry_number(facts.get("max-deleted-entry-id", "0-0")):
            # What goes, goes from the front: an entry that is missing behind it is one that this server never had.
            went_back, last = True, (at[0], at[1] - 1)
            for known in self.order.places(stream):
                number = "{}-{}".format(*known)
                if self.client.xrange(stream, number, number):
                    break
                last = (known[0], known[1] - 1)
        if went_back:
            why = why or self.recognise()
            if self._told.is_new(why):
                log.warning("subscribe.rewound", extra={"stream": stream, "place": place, "reason": why})
            self.order.end_era(stream, why)
            self.losses += self.order.doubt(stream, first, last)
            self._had.pop(stream, None)
            if last_entry(facts) < at:
                self._places[stream] = "0-0"
        return facts

    def _balance(self, stream: str, facts: Mapping[str, Any]) -> None:
        """Note what was added and gone unread, beside what the numbers of its sources show (from Redis 7 on)."""
        added = facts.get("entries-added") if facts else 0
        ahead = {text(facts.get("last-generated-id", "0-0")): 0, "0-0": facts.get("length", 0)}.get(
            self._places.get(stream, "0-0")
        )
        if added is None or ahead is None:
            return
        had = added - ahead
        lost = had - self._had.get(stream, had) - self.missing.pop(stream, 0)
        if self.alone and lost > 0:
            self.losses.append(Lost(stream, "", lost, "gone before they were read, of sources not read before"))
        self._had[stream] = had

    def _advance(self, entry: Entry) -> None:
        """Take note that a stream was read up to an entry."""
        self._places[entry.stream] = entry.id
        if entry.stream in self._had:
            self._had[entry.stream] += 1

    def missing_before(self, entry: Entry, record: Record) -> tuple[int, str]:
        """Take note of a record; return how many are missing before it, and why."""
        wanted, place, why = self.order.expected(entry.stream, record)
        if wanted is not None and (record.sequence or 0) > wanted:
            facts = self.compare(entry.stream, self.recognise())
            why = self.order.expected(entry.stream, record)[2] or (TRIMMED if first_entry(facts) > place else ABSENT)
        return self.order.missing(entry.stream, record, entry_number(entry.id)), why

    def leave(self) -> None:  # noqa: B027
        """No more entries will be asked for."""

    def has_seen(self, entry: Entry) -> bool:
        """Whether an entry's record was there lately, perhaps in another one: what a server forgot it gets again."""
        return entry.record is not None and (entry.stream, entry.record.id) in self._seen

    def _see(self, entry: Entry) -> None:
        if entry.record is not None:
            self._seen[entry.stream, entry.record.id] = None
        if len(self._seen) > _RECORDS_REMEMBERED:
            self._seen.popitem(last=False)


class Start:
    """Where reading begins.

    ``since`` is ``new``, ``start`` (all that is kept), the id of the last entry that is already known, a time
    (timezone-aware, or as text in ISO 8601), or how long ago: ``90s``, ``10m``, ``2h``, ``1d``.

    Raises:
        ConfigError: it is none of these.
    """

    def __init__(self, since: str | datetime) -> None:
        self._word = ""
        self._ago = 0.0
        #: An entry that was read already.
        self.known = False
        moment = since if isinstance(since, datetime) else None
        if isinstance(since, str):
            found = _AGO.fullmatch(since)
            self.known = _ENTRY_ID.fullmatch(since) is not None
            if since in ("new", "start") or self.known:
                self._word = since
                return
            if found:
                self._ago = float(found[1]) * _UNIT_SECONDS[found[2]]
                return
            try:
                moment = datetime.fromisoformat(since)
            except ValueError:
                raise ConfigError(
                    f"since {since!r}: use 'new', 'start', an entry id such as 1772600765000-0, a time such "
                    "as 2026-11-27T08:00Z, or how long ago, such as 10m"
                ) from None
        if moment is None or moment.tzinfo is None:
            raise ConfigError(f"since {since}: a time needs its zone, such as 2026-11-27T08:00+01:00")
        self._word = _before(moment.timestamp())

    def place(self, client: Any, stream: str) -> str:
        """Return the id after which to begin; ``new`` is the last id, as ``$`` would skip what comes meanwhile."""
        if self._ago:
            # The ids of entries are by the server's clock.
            seconds, _ = client.time()
            return _before(seconds - self._ago)
        if self._word == "new":
            return "{}-{}".format(*last_entry(stream_facts(client, stream)))
        return "0-0" if self._word == "start" else self._word


class Follower(Reader):
    """Reads by XREAD from a place of its own; the streams lie in one slot where the server is a Cluster."""

    def __init__(self, client: Any, streams: Sequence[str], start: Start) -> None:
        super().__init__(client, streams)
        self._start = start

    def prepare(self) -> None:
        for stream in self._streams:
            if stream not in self._places:
                self._places[stream] = place = self._start.place(self.client, stream)
                facts = stream_facts(self.client, stream)
                if self._start.known and min(first_entry(facts), last_entry(facts)) > entry_number(place):
                    why = f"{place}, the last known entry, is gone, and perhaps what followed it"
                    self.losses.append(Lost(stream, "", 0, why))
        self.look()

    def fetch(self, block_ms: int | None) -> None:
        """See :class:`Reader`; entries of several streams come in the order of their ids."""
        if time.monotonic() >= self._next_look:
            self.look()
        reply = self.client.xread(dict(self._places), count=_BATCH, block=block_ms)
        self._fill(reply or [])
        if not reply and block_ms is not None:
            self.look()

    def read(self, entry: Entry, record: Record) -> bool:
        """Note what is missing before a record; return whether it is new."""
        try:
            missing, why = self.missing_before(entry, record)
        except BaseException:
            self.buffer.appendleft(entry)
            raise
        if missing > 0:
            # What another server's state lacks was not added to this one.
            self.missing[entry.stream] += missing * (why == TRIMMED)
            self.losses.append(Lost(entry.stream, record.subject, missing, why))
        # What a server forgot and got again comes a second time.
        known = self.has_seen(entry) or (missing < 0 and entry.stream in self.order.eras)
        self._see(entry)
        return not known

    def _fill(self, reply: Any) -> None:
        batch: list[Entry] = []
        horizon: tuple[int, int] | None = None
        for name, items in reply:
            entries = [Entry.of(name, number, fields) for number, fields in items]
            batch += entries
            if len(entries) == _BATCH:
                last = entry_number(entries[-1].id)
                horizon = last if horizon is None else min(horizon, last)
        # A full batch may hide entries of its stream that are older than what other streams gave.
        usable = [entry for entry in batch if horizon is None or entry_number(entry.id) <= horizon]
        usable.sort(key=lambda entry: entry_number(entry.id))
        for entry in usable:
            self._advance(entry)
        self.buffer.extend(usable)


def stream_facts(client: Any, stream: str) -> Mapping[str, Any]:
    """What the server says of a stream; nothing where there is none."""
    try:
        return dict(client.xinfo_stream(stream))
    except faults.ResponseError as error:
        if "no such key" in str(error):
            return {}
        raise


def first_entry(facts: Mapping[str, Any]) -> tuple[int, int]:
    """The id of a stream's first entry; where it has none, one above all that it had."""
    milliseconds, counter = last_entry(facts)
    return entry_number(facts["first-entry"][0]) if facts.get("first-entry") else (milliseconds, counter + 1)


def last_entry(facts: Mapping[str, Any]) -> tuple[int, int]:
    """The id of the last entry that a stream ever had."""
    return entry_number(facts.get("last-generated-id", "0-0"))


def _server_facts(client: Any, stream: str) -> Mapping[str, Any]:
    """What the server that has a stream says of itself; nothing where it may not be asked."""
    try:
        return dict(client.info(**node_of(client, stream)))
    except faults.ResponseError as error:
        if can_pass(error):
            raise
        return {}


def _before(seconds: float) -> str:
    return f"{max(0, int(seconds * 1000) - 1)}{_MOMENT}"
