"""Appending records to their streams once, however often they are sent.

One Lua script, in one step for all records of a partition, appends what is not marked yet and marks its id under a key
that expires: duplicates are suppressed for that time, not for ever. Redis 8.6's own way (``XADD ... IDMP``) knows the
last ten thousand ids alone, fewer than a spool may hold.

From here on a record is the fields of its entry: what a spool held for an hour is not read and written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Any

import redis

from streamfer.publish.keys import Keys

if TYPE_CHECKING:
    # Who only reads need not wait for it.
    from streamfer.config import PublishConfig

#: A record as the fields of a stream's entry, numbered.
Fields = Mapping[str, str]

# The id is marked after the append: were it before, an append that fails (memory full) would leave a mark that
# turns the retry into a "duplicate" of nothing. A script is atomic, so no one sees the state between, and whatever a
# slot's move or a failover does in between, the records of a partition stay in order. An empty mark ahead of the first
# append counts as none: who may append and not mark would append again with each attempt.
#
# The mark is the number that the record came with, as text of one width. A higher one, as of a later run over the same
# file, would leave a hole in its source's: those behind it move up, by what is remembered beside the marks and lost
# with them alone.
_APPEND_LUA = """
local replies, at, tried = {}, 2, false
local moved = redis.call('EXISTS', KEYS[1]) == 1
for i = 2, #KEYS, 2 do
  local last = at + 3 + ARGV[at]
  local source, number = ARGV[at + 2], ARGV[at + 3]
  local known = redis.call('GET', KEYS[i + 1])
  if known == '' then
    known = false
  end
  if not known then
    if not tried then
      redis.call('SET', KEYS[i + 1], '', 'EX', ARGV[1])
      tried = true
    end
    local by = moved and redis.call('HGET', KEYS[1], source)
    if by then
      redis.call('EXPIRE', KEYS[1], ARGV[1])
      for j = at + 4, last, 2 do
        if ARGV[j] == 'ce_sequence' then
          ARGV[j + 1] = string.format('%020.0f', tonumber(number) - by)
        end
      end
    end
    redis.call('XADD', KEYS[i], 'MAXLEN', '~', ARGV[at + 1], '*', unpack(ARGV, at + 4, last))
    redis.call('SET', KEYS[i + 1], number, 'EX', ARGV[1])
  elseif number > known then
    redis.call('SET', KEYS[i + 1], number, 'EX', ARGV[1])
    redis.call('HINCRBY', KEYS[1], source, 1)
    redis.call('EXPIRE', KEYS[1], ARGV[1])
    moved = true
  end
  replies[#replies + 1] = known and 0 or 1
  at = last + 1
end
return replies
"""


class Outcome(StrEnum):
    """What became of a record."""

    NEW = "new"
    DUPLICATE = "duplicate"


def append(client: redis.Redis, keys: Keys, config: PublishConfig, records: Sequence[Fields]) -> list[Outcome]:
    """Append ``records``, those of a partition in one step, and say what became of each.

    A record whose first reply was lost counts as a duplicate when it is sent again. Streams are trimmed approximately:
    whole nodes go at a time.

    Raises:
        redis.RedisError: the connection broke or the server refused; sending all of them again is safe.
    """
    places: dict[int, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(keys.partition(record["ce_subject"]), []).append(place)
    with client.pipeline(transaction=False) as pipeline:
        for partition, members in places.items():
            names = [keys.moved(partition)]
            words = [str(config.dedup_seconds)]
            for record in (records[place] for place in members):
                name, subject = keys.name_of(record["ce_type"]), record["ce_subject"]
                most = config.frames or config.maxlen if name == "frames" else config.maxlen
                names += (keys.stream(name, partition), keys.seen(record["ce_id"], partition))
                words += (str(2 * len(record)), str(most), f"{name} {subject}", record.get("ce_sequence", ""))
                words += chain.from_iterable(record.items())
            # EVAL rather than EVALSHA: a server that restarted has forgotten the script, and its text is
            # small beside the records. By hand: the pipeline of a Cluster's client has no method for it.
            pipeline.execute_command("EVAL", _APPEND_LUA, len(names), *names, *words)  # type: ignore[no-untyped-call]
        # redis-py's own raising would put the whole command, with the records in it, into the message.
        replies: list[Any] = pipeline.execute(raise_on_error=False)
    outcomes: dict[int, Outcome] = {}
    for members, reply in zip(places.values(), replies, strict=True):
        if isinstance(reply, Exception):
            raise reply
        outcomes |= {
            place: Outcome.NEW if new else Outcome.DUPLICATE for place, new in zip(members, reply, strict=True)
        }
    return [outcomes[place] for place in range(len(records))]


def entry_number(entry_id: bytes | str) -> tuple[int, int]:
    """A stream entry id as numbers that sort as the server sorts them."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, counter = text.partition("-")
    return int(milliseconds), int(counter or 0)
