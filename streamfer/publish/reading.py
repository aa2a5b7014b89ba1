"""Reading streams as they grow, each reader with its own cursor: nobody else is affected.

Nothing here talks to a server. A reader is a set of generators that yield *commands* and get their replies back (or
redis-py's exceptions), so one reader serves blocking and asyncio clients; :mod:`streamfer.publish.following` puts
readers together, and :mod:`streamfer.publish.subscription` drives them.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from redis import exceptions as faults

from streamfer.errors import ConfigError, RecordError
from streamfer.publish.append import entry_number
from streamfer.records import Record

_ENTRY_ID = re.compile(r"\d{1,20}(-\d{1,20})?")
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_BATCH = 64
#: Between looks at streams that never come to rest.
_LOOK_SECONDS = 2.0

#: What a client, blocking or asyncio's, is asked.
Command = Callable[[Any], Any]
T = TypeVar("T")
#: Commands whose replies come back, and numbers: seconds to wait.
Steps = Generator[Command | float, Any, T]

#: How the place of a moment ends: no entry has that number.
_MOMENT = f"-{2**64 - 1}"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that a source published and a subscriber will not see."""

    stream: str  #: and subject: where they were; the subject is empty where nobody knows whose they were
    subject: str
    count: int  #: how many; 0 where nobody can count
    why: str  #: one line


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

    def __init__(self) -> None:
        self.buffer: deque[Entry] = deque()  #: entries that were fetched and not handed out
        self.losses: list[Lost] = []  #: what was found missing and not told
        self.missing: Counter[str] = Counter()  #: by stream, what the numbers of sources showed to be missing
        #: streams that came back with lower ids than were read: what was read may come again
        self.rewound: set[str] = set()

    def prepare(self) -> Steps[None]:
        """Find the place to begin, before the first entry is asked for."""
        yield from ()

    @abstractmethod
    def fetch(self, block_ms: int | None) -> Steps[None]:
        """Fill the buffer, waiting ``block_ms`` at most for something new; not at all where it is None."""

    def take(self) -> Entry | None:
        """Return the next of the buffer; None where there is none that may be handed out."""
        return self.buffer.popleft() if self.buffer else None

    def done(self, *entries: Entry) -> Steps[None]:  # noqa: ARG002 - only groups answer
        """The effect of these entries of one stream is done."""
        yield from ()

    def reject(self, entry: Entry, reason: str) -> Steps[None]:  # noqa: ARG002
        """The entry cannot be used."""
        yield from ()

    def interrupted(self) -> None:  # noqa: B027 - only groups remember
        """The connection was lost; what the server did meanwhile is not known."""

    def leave(self) -> Steps[None]:
        """No more entries will be asked for."""
        yield from ()


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
                    f"start of reading {since!r}: use 'new', 'start', an entry id such as 1772600765000-0, a time such "
                    "as 2026-11-27T08:00Z, or how long ago, such as 10m"
                ) from None
        if moment is None or moment.tzinfo is None:
            raise ConfigError(f"start of reading {since}: a time needs its zone, such as 2026-11-27T08:00+01:00")
        self._word = _before(moment.timestamp())

    def place(self, stream: str) -> Steps[str]:
        """Return the id after which to begin; ``new`` is the last id, as ``$`` would skip what comes meanwhile."""
        if self._ago:
            # The ids of entries are by the server's clock.
            seconds, _ = yield lambda client: client.time()
            return _before(seconds - self._ago)
        if self._word == "new":
            information = yield from stream_facts(stream)
            return text(information.get("last-generated-id", "0-0"))
        return "0-0" if self._word == "start" else self._word


class Follower(Reader):
    """Reads by XREAD from a place of its own; the streams lie in one slot where the server is a Cluster."""

    def __init__(self, streams: Sequence[str], start: Start) -> None:
        super().__init__()
        self._streams = list(streams)
        self._start = start
        self._places: dict[str, str] = {}
        # By stream: entries added to it when the reader last had them all, and read since then.
        self._had: dict[str, int] = {}
        self._read: Counter[str] = Counter()
        self._next_look = 0.0

    def prepare(self) -> Steps[None]:
        for stream in self._streams:
            if stream not in self._places:
                place = yield from self._start.place(stream)
                if self._start.known:
                    yield from self._compare(stream, place)
                self._places[stream] = place
        yield from self._look_back()

    def fetch(self, block_ms: int | None) -> Steps[None]:
        """See :class:`Reader`; entries of several streams come in the order of their ids."""
        if time.monotonic() >= self._next_look:
            yield from self._look_back()
        places = dict(self._places)
        reply = yield lambda client: client.xread(places, count=_BATCH, block=block_ms)
        self._fill(reply or [])
        if not reply:
            yield from self._look_back()

    def _compare(self, stream: str, place: str) -> Steps[None]:
        """Note that what stood behind the last known entry is gone; how many there were is not known."""
        facts = yield from stream_facts(stream)
        first = facts.get("first-entry")
        behind = entry_number(first[0]) if first else entry_number(facts.get("last-generated-id", "0-0"))
        if behind <= entry_number(place):
            return
        # What goes, goes from the front: the known entry itself being there proves that nothing behind it was trimmed.
        still: Any = yield lambda client: client.xrange(stream, place, place)
        deleted = facts.get("max-deleted-entry-id", "0-0")
        if not still or entry_number(deleted) > entry_number(place):
            self.losses.append(
                Lost(stream, "", 0, f"{place}, the last known entry, is gone, and perhaps what followed it")
            )

    def _look_back(self) -> Steps[None]:
        """Begin a stream again that was restored, or emptied and begun anew: its entries would never come up."""
        self._next_look = time.monotonic() + _LOOK_SECONDS
        for stream, place in list(self._places.items()):
            facts = yield from stream_facts(stream)
            last = text(facts.get("last-generated-id", "0-0"))
            # A moment after the last entry was no entry's place: what stands before it was not asked for.
            if entry_number(last) < entry_number(place) and not place.endswith(_MOMENT):
                log.warning("subscribe.rewound", extra={"stream": stream, "place": place, "last": last})
                self._places[stream] = "0-0"
                self._had.pop(stream, None)
                self.rewound.add(stream)
            else:
                self._balance(stream, facts)

    def _balance(self, stream: str, facts: Mapping[str, Any]) -> None:
        """Note what was added and gone unread, beside what the numbers of its sources show (from Redis 7 on)."""
        added = facts.get("entries-added") if facts else 0
        ahead = {text(facts.get("last-generated-id", "0-0")): 0, "0-0": facts.get("length", 0)}.get(
            self._places[stream]
        )
        if added is None or ahead is None:
            return
        had = added - ahead
        lost = had - self._had.get(stream, had) - self._read.pop(stream, 0) - self.missing.pop(stream, 0)
        if lost > 0:
            self.losses.append(Lost(stream, "", lost, "gone before they were read, of sources not read before"))
        self._had[stream] = had

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
            self._places[entry.stream] = entry.id
            self._read[entry.stream] += 1
        self.buffer.extend(usable)


def stream_facts(stream: str) -> Steps[Mapping[str, Any]]:
    """What the server says of a stream; nothing where there is none."""
    try:
        found: Mapping[str, Any] = yield lambda client: client.xinfo_stream(stream)
    except faults.ResponseError as error:
        if "no such key" in str(error):
            return {}
        raise
    return found


def _before(seconds: float) -> str:
    return f"{max(0, int(seconds * 1000) - 1)}{_MOMENT}"


def text(value: bytes | str) -> str:
    """What the server said, as text."""
    return value.decode() if isinstance(value, bytes) else value
