"""Appending records to their streams once, however often they are sent.

One Lua script, in one step for all records of a partition, appends what is not marked yet and marks its id under a key
that expires: duplicates are suppressed for that time, not for ever. Redis 8.6's own way (``XADD ... IDMP``) knows the
last ten thousand ids alone, fewer than a spool may hold. The records come as one argument, in MessagePack, which both
sides write and read several times faster than thousands of arguments.

From here on a record is the fields of its entry: what a spool held for an hour is not read and written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgpack
import redis
from redis import exceptions as faults

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
#
# Nothing is done on another run of the server than is known: what that may have forgotten is sent again first.
_APPEND_LUA = """
local said = redis.pcall('INFO', 'server')
local run = type(said) == 'string' and string.match(said, 'run_id:(%x+)') or ''
if ARGV[2] ~= '' and ARGV[2] ~= run then
  return {run}
end
local replies, tried = {run}, false
local moved = redis.call('EXISTS', KEYS[1]) == 1
for i, record in ipairs(cmsgpack.unpack(ARGV[3])) do
  local stream, most, source, number = unpack(record, 1, 4)
  local mark = KEYS[i + 1]
  local known = redis.call('GET', mark)
  if known == '' then
    known = false
  end
  if not known then
    if not tried then
      redis.call('SET', mark, '', 'EX', ARGV[1])
      tried = true
    end
    local by = moved and redis.call('HGET', KEYS[1], source)
    if by then
      redis.call('EXPIRE', KEYS[1], ARGV[1])
      for j = 5, #record, 2 do
        if record[j] == 'ce_sequence' then
          record[j + 1] = string.format('%020.0f', tonumber(number) - by)
        end
      end
    end
    redis.call('XADD', KEYS[stream], 'MAXLEN', '~', most, '*', unpack(record, 5))
    redis.call('SET', mark, number, 'EX', ARGV[1])
  elseif number > known then
    redis.call('SET', mark, number, 'EX', ARGV[1])
    redis.call('HINCRBY', KEYS[1], source, 1)
    redis.call('EXPIRE', KEYS[1], ARGV[1])
    moved = true
  end
  replies[i + 1] = known and 0 or 1
end
return replies
"""


class ForgottenError(Exception):
    """Another run of the server answers than took the records before, which it may have forgotten."""


class Outcome(StrEnum):
    """What became of a record."""

    NEW = "new"
    DUPLICATE = "duplicate"


def append(
    client: redis.Redis,
    keys: Keys,
    config: PublishConfig,
    records: Sequence[Fields],
    runs: dict[int, str] | None = None,
    asked: Iterable[int] = (),
) -> list[Outcome]:
    """Append ``records``, those of a partition in one step, and say what became of each.

    A record whose first reply was lost counts as a duplicate when it is sent again. Streams are trimmed approximately:
    whole nodes go at a time.

    Args:
        runs: by partition, which run of its server took the records before; brought up to date. It is empty where the
            server may not be asked.
        asked: partitions whose server is asked for its run though there may be nothing to append.

    Raises:
        ForgottenError: it is another run now, and nothing was appended in its partitions.
        redis.RedisError: the connection broke or the server refused; sending all of them again is safe.
    """
    runs = {} if runs is None else runs
    places: dict[int, list[int]] = {partition: [] for partition in asked}
    for place, record in enumerate(records):
        places.setdefault(keys.partition(record["ce_subject"]), []).append(place)
    with client.pipeline(transaction=False) as pipeline:
        for partition, members in places.items():
            names = [keys.moved(partition), *(keys.seen(records[place]["ce_id"], partition) for place in members)]
            streams: dict[str, int] = {}
            rows = []
            for record in (records[place] for place in members):
                name, subject = keys.name_of(record["ce_type"]), record["ce_subject"]
                most = config.frames or config.maxlen if name == "frames" else config.maxlen
                key = streams.setdefault(keys.stream(name, partition), len(names) + len(streams) + 1)
                number = record.get("ce_sequence", "")
                rows.append((key, str(most), f"{name} {subject}", number, *chain.from_iterable(record.items())))
            names += streams
            words: tuple[Any, ...] = (str(config.dedup_seconds), runs.get(partition, ""), msgpack.packb(rows))
            # EVAL rather than EVALSHA: a server that restarted has forgotten the script, and its text is
            # small beside the records. By hand: the pipeline of a Cluster's client has no method for it.
            words = ("EVAL", _APPEND_LUA, len(names), *names, *words)
            pipeline.execute_command(*words, **_place(client, names[0]))  # type: ignore[no-untyped-call]
        # redis-py's own raising would put the whole command, with the records in it, into the message.
        replies: list[Any] = pipeline.execute(raise_on_error=False)
    outcomes: dict[int, Outcome] = {}
    # Before any run is noted: what one server forgot must be known whatever another one refuses.
    if refusals := [reply for reply in replies if isinstance(reply, Exception)]:
        raise refusals[0]
    forgotten = False
    for (partition, members), reply in zip(places.items(), replies, strict=True):
        run = reply[0].decode() if isinstance(reply[0], bytes) else reply[0]
        forgotten |= runs.get(partition, "") not in ("", run)
        runs[partition] = run
        done = zip(members, reply[1:], strict=False)
        outcomes |= {place: Outcome.NEW if new else Outcome.DUPLICATE for place, new in done}
    if forgotten:
        raise ForgottenError
    return [outcomes[place] for place in range(len(records))]


def _place(client: Any, key: str) -> dict[str, Any]:
    """Which node of a Cluster has a key; redis-py would ask any for it, with all records in the question."""
    find = getattr(client, "get_node_from_key", None)
    try:
        return {"target_nodes": find(key)} if find else {}
    except faults.SlotNotCoveredError:
        client.nodes_manager.initialize()
        raise


def entry_number(entry_id: bytes | str) -> tuple[int, int]:
    """A stream entry id as numbers that sort as the server sorts them."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, counter = text.partition("-")
    return int(milliseconds), int(counter or 0)
