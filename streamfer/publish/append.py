"""Appending a record to its stream once, however often it is sent.

Two ways, by what the server can do:

* Redis 8.6 and later remember ids themselves: ``XADD ... IDMP <producer> <id>``
  (redis.io/docs/latest/develop/data-types/streams/idempotency).
* Everywhere else one Lua script marks the id under a key that expires, and appends, in one step.

Both suppress duplicates within a window (time and, for IDMP, number of ids), not for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Protocol

import redis
from redis import exceptions as faults

from streamfer.publish.keys import Keys
from streamfer.records import Record

IDMP_SINCE = (8, 6)
_DAY_SECONDS = 86_400

# The id is marked after the append: were it before, an append that fails (memory full) would leave a mark that
# turns the retry into a "duplicate" of nothing. A script is atomic, so no one sees the state between.
# All records of a slot go in one step: whatever its move or a failover does in between, they stay in order.
_APPEND_LUA = """
local replies, at = {}, 3
for i = 1, #KEYS, 2 do
  local last = at + ARGV[at]
  local new = redis.call('EXISTS', KEYS[i + 1]) == 0
  if new then
    local entry = redis.call('XADD', KEYS[i], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, at + 1, last))
    redis.call('SET', KEYS[i + 1], entry, 'EX', ARGV[2])
  end
  replies[#replies + 1] = new and 1 or 0
  at = last + 1
end
return replies
"""

# XCFGSET forgets every id seen so far, so only the creator of the stream may call it: the script creates the
# stream (through a group that it removes again) and configures it in one step. Servers disagree on the largest
# values (86400 s and 10000 ids in redis.io's pages, 300 s and 1000000 in redis-py), hence the second call.
_CREATE_LUA = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('XGROUP', 'CREATE', KEYS[1], 'streamfer:create', '$', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[1], 'streamfer:create')
local reply = redis.pcall('XCFGSET', KEYS[1], 'IDMP-DURATION', ARGV[1], 'IDMP-MAXSIZE', 10000)
if type(reply) == 'table' and reply.err then
  redis.call('XCFGSET', KEYS[1], 'IDMP-DURATION', math.min(300, ARGV[1]), 'IDMP-MAXSIZE', 10000)
end
return 1
"""


class Outcome(StrEnum):
    """What became of a record."""

    NEW = "new"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept.

    Attributes:
        max_entries: length that streams are trimmed to, approximately (whole nodes of the stream go at a time).
        dedup_seconds: how long an id is remembered.
    """

    max_entries: int = 100_000
    dedup_seconds: int = _DAY_SECONDS


class Appender(Protocol):
    """A way to append records idempotently."""

    def append(self, client: redis.Redis, records: Sequence[Record]) -> list[Outcome]:
        """Append ``records``, those of a partition in one step, and say what became of each.

        A record whose first reply was lost counts as a duplicate when it is sent again.

        Raises:
            redis.RedisError: the connection broke or the server refused; sending all of them again is safe.
        """


@dataclass(frozen=True, slots=True)
class ScriptAppender:
    """Idempotence by a Lua script, for servers before 8.6."""

    keys: Keys
    retention: Retention

    def append(self, client: redis.Redis, records: Sequence[Record]) -> list[Outcome]:
        """See :class:`Appender`."""
        with client.pipeline(transaction=False) as pipeline:
            places = _places(records, lambda record: self.keys.partition(record.subject))
            for members in places:
                keys: list[str] = []
                words = [str(self.retention.max_entries), str(self.retention.dedup_seconds)]
                for place in members:
                    fields = records[place].to_fields()
                    keys += (self.keys.stream_of(records[place]), self.keys.seen(records[place]))
                    words += (str(2 * len(fields)), *chain.from_iterable(fields.items()))
                # EVAL rather than EVALSHA: a server that restarted has forgotten the script, and its text is
                # small beside the records. By hand: the pipeline of a Cluster's client has no method for it.
                pipeline.execute_command("EVAL", _APPEND_LUA, len(keys), *keys, *words)
            replies = _checked(pipeline.execute(raise_on_error=False))
        outcomes = {
            place: Outcome.NEW if reply == 1 else Outcome.DUPLICATE
            for members, answered in zip(places, replies, strict=True)
            for place, reply in zip(members, answered, strict=True)
        }
        return [outcomes[place] for place in range(len(records))]


@dataclass(frozen=True, slots=True)
class ServerAppender:
    """Idempotence by the server's own memory of (producer, id), Redis 8.6 and later.

    Attributes:
        producer: stable across restarts; the site's name, so that all processes of a site share one memory.
    """

    keys: Keys
    retention: Retention
    producer: str

    def append(self, client: redis.Redis, records: Sequence[Record]) -> list[Outcome]:
        """See :class:`Appender`."""
        outcomes: dict[int, Outcome] = {}
        for members in _places(records, self.keys.stream_of):
            stream = self.keys.stream_of(records[members[0]])
            results = self._append_to(client, stream, [records[place] for place in members])
            outcomes.update(zip(members, results, strict=True))
        return [outcomes[place] for place in range(len(records))]

    def _append_to(self, client: redis.Redis, stream: str, records: Sequence[Record]) -> list[Outcome]:
        # The server answers a duplicate with the id of the entry that is already there. Ids only rise, so
        # within one transaction an answer above the last id of the stream is a new entry, any other is not.
        with client.pipeline(transaction=True) as pipeline:
            pipeline.eval(_CREATE_LUA, 1, stream, str(min(self.retention.dedup_seconds, _DAY_SECONDS)))
            pipeline.xinfo_stream(stream)
            for record in records:
                fields: dict[Any, Any] = {**record.to_fields()}
                pipeline.xadd(
                    stream,
                    fields,
                    maxlen=self.retention.max_entries,
                    approximate=True,
                    idmp=(self.producer, record.id.encode()),
                )
            _, information, *replies = _checked(pipeline.execute(raise_on_error=False))
        last = entry_number(information["last-generated-id"])
        outcomes = []
        for reply in replies:
            number = entry_number(reply)
            outcomes.append(Outcome.NEW if number > last else Outcome.DUPLICATE)
            last = max(last, number)
        return outcomes


def _places(records: Sequence[Record], key: Callable[[Record], Hashable]) -> list[list[int]]:
    """Return the places of the records that go together."""
    places: dict[Hashable, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(key(record), []).append(place)
    return list(places.values())


def _checked(replies: list[Any]) -> list[Any]:
    # redis-py's own raising would put the whole command, with the record in it, into the message.
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def entry_number(entry_id: bytes | str) -> tuple[int, int]:
    """A stream entry id as numbers that sort as the server sorts them."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, counter = text.partition("-")
    return int(milliseconds), int(counter or 0)


def choose_appender(client: redis.Redis, keys: Keys, retention: Retention, producer: str) -> Appender:
    """Pick the way that this server supports; a server that hides its version gets the script."""
    try:
        information: dict[str, Any] = client.info("server")
    except faults.ResponseError:
        return ScriptAppender(keys, retention)
    # Valkey and others report the Redis version that they are compatible with, which stays below 8.
    version = str(information.get("redis_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= IDMP_SINCE and "valkey_version" not in information:
        return ServerAppender(keys, retention, producer)
    return ScriptAppender(keys, retention)
