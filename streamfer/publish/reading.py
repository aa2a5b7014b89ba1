"""Reading streams as they grow, each reader with its own cursor: nobody else is affected."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis
from redis import exceptions as faults

from streamfer.errors import ConfigError
from streamfer.publish.append import entry_number

_ENTRY_ID = re.compile(r"\d{1,20}(-\d{1,20})?")
_BATCH = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream, not yet understood.

    Attributes:
        stream: key that it was read from.
        id: the server's id of it.
        fields: what it holds; None where it was trimmed before it could be read.
        deliveries: how often a consumer group has handed it out.
    """

    stream: str
    id: str
    fields: Mapping[Any, Any] | None
    deliveries: int = 1


class Reader(Protocol):
    """A way to read; a lost connection surfaces as redis-py's exception, and reading goes on afterwards.

    Attributes:
        lost: entries that the server reported as trimmed without naming their place among the others.
    """

    lost: int

    def prepare(self, client: redis.Redis) -> None:
        """Find the place to begin, before the first entry is asked for."""

    def next_entry(self, client: redis.Redis, block_ms: int) -> Entry | None:
        """The next entry, waiting ``block_ms`` at most; None if none came."""

    def done(self, client: redis.Redis, entry: Entry) -> None:
        """The entry's effect is done."""

    def reject(self, client: redis.Redis, entry: Entry, reason: str) -> None:
        """The entry cannot be used."""

    def interrupted(self) -> None:
        """The connection was lost; what the server did meanwhile is not known."""

    def leave(self, client: redis.Redis) -> None:
        """No more entries will be asked for."""


def check_start(start: str) -> str:
    """Return ``start`` if it says where to begin.

    Raises:
        ConfigError: it is neither ``new`` nor ``start`` nor an entry id.
    """
    if start not in ("new", "start") and not _ENTRY_ID.fullmatch(start):
        raise ConfigError(f"start of reading {start!r}: use 'new', 'start' or an entry id such as 1772600765000-0")
    return start


class Follower:
    """Reads by XREAD from a place of its own.

    Args:
        streams: keys.
        start: ``new``, ``start`` or the id of the last entry that is already known.
    """

    def __init__(self, streams: Sequence[str], start: str) -> None:
        self.lost = 0
        #: Streams that came back with lower ids than were read: what was read may come again.
        self.rewound: set[str] = set()
        self._streams = list(streams)
        self._start = check_start(start)
        self._places: dict[str, str] = {}
        self._buffer: deque[Entry] = deque()

    def prepare(self, client: redis.Redis) -> None:
        """Turn ``new`` into the last id of each stream: ``$`` would skip what comes while disconnected."""
        for stream in self._streams:
            if stream in self._places:
                continue
            place = "0-0" if self._start == "start" else self._start
            if self._start == "new":
                place = _last_id(client, stream)
            self._places[stream] = place

    def next_entry(self, client: redis.Redis, block_ms: int) -> Entry | None:
        """See :class:`Reader`; entries of several streams come in the order of their ids."""
        if not self._buffer:
            places: dict[Any, Any] = {**self._places}
            reply = client.xread(places, count=_BATCH, block=block_ms) or []
            self._fill(reply)
            if not reply:
                self._look_back(client)
        return self._buffer.popleft() if self._buffer else None

    def done(self, client: redis.Redis, entry: Entry) -> None:
        """Nothing to do: the place is known here alone."""

    def reject(self, client: redis.Redis, entry: Entry, reason: str) -> None:
        """Nothing to do: a follower has no say over the stream."""

    def interrupted(self) -> None:
        """Nothing to do: the places do not depend on the connection."""

    def leave(self, client: redis.Redis) -> None:
        """Nothing to do: the server knows nothing of this reader."""

    def _look_back(self, client: redis.Redis) -> None:
        """Begin a stream again that was restored, or emptied and begun anew: its entries would never come up."""
        for stream, place in self._places.items():
            last = _last_id(client, stream)
            if entry_number(last) < entry_number(place):
                log.warning("subscribe.rewound", extra={"stream": stream, "place": place, "last": last})
                self._places[stream] = "0-0"
                self.rewound.add(stream)

    def _fill(self, reply: Any) -> None:
        batch: list[Entry] = []
        horizon: tuple[int, int] | None = None
        for name, items in reply:
            entries = [Entry(_text(name), _text(number), fields) for number, fields in items]
            batch += entries
            if len(entries) == _BATCH:
                last = entry_number(entries[-1].id)
                horizon = last if horizon is None else min(horizon, last)
        # A full batch may hide entries of its stream that are older than what other streams gave.
        usable = [entry for entry in batch if horizon is None or entry_number(entry.id) <= horizon]
        usable.sort(key=lambda entry: entry_number(entry.id))
        for entry in usable:
            self._places[entry.stream] = entry.id
        self._buffer.extend(usable)


def _last_id(client: redis.Redis, stream: str) -> str:
    try:
        information: Any = client.xinfo_stream(stream)
    except faults.ResponseError as error:
        if "no such key" in str(error):
            return "0-0"
        raise
    return _text(information["last-generated-id"])


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
