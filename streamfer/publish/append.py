"""Appending a record to its stream once, however often it is sent.

Two ways, by what the server can do:

* Redis 8.6 and later remember ids themselves: ``XADD ... IDMP <producer> <id>``
  (redis.io/docs/latest/develop/data-types/streams/idempotency).
* Everywhere else one Lua script marks the id under a key that expires, and appends, in one step.

Both suppress duplicates within a window (time and, for IDMP, number of ids), not for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any, Protocol

import redis
from redis import exceptions as faults

from streamfer.publish.keys import Keys
from streamfer.records import Record

IDMP_SINCE = (8, 6)
_DAY_SECONDS = 86_400

# The id is marked after the append: were it before, an append that fails (memory full) would leave a mark that
# turns the retry into a "duplicate" of nothing. A script is atomic, so no one sees the state between.
_APPEND_LUA = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local entry = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 3))
redis.call('SET', KEYS[2], entry, 'EX', ARGV[2])
return 1
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
        """Append ``records`` in one round trip and say what became of each.

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
            for record in records:
                flat = [text for pair in record.to_fields().items() for text in pair]
                # EVAL rather than EVALSHA: a server that restarted has forgotten the script, and its text is
                # small beside the record.
                pipeline.eval(
                    _APPEND_LUA,
                    2,
                    self.keys.stream_of(record),
                    self.keys.seen(record),
                    str(self.retention.max_entries),
                    str(self.retention.dedup_seconds),
                    *flat,
                )
            replies = _checked(pipeline.execute(raise_on_error=False))
        return [Outcome.NEW if reply == 1 else Outcome.DUPLICATE for reply in replies]


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
        numbered = sorted(enumerate(records), key=lambda item: self.keys.stream_of(item[1]))
        for stream, group in groupby(numbered, key=lambda item: self.keys.stream_of(item[1])):
            members = list(group)
            results = self._append_to(client, stream, [record for _, record in members])
            outcomes.update(zip((position for position, _ in members), results, strict=True))
        return [outcomes[position] for position in range(len(records))]

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
