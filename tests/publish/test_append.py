"""Idempotent append: the Lua way on a real server, the server's own way against a model of Redis 8.6."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from record_examples import examples, labelled, span
from redis import exceptions as faults

from streamfer.publish import Keys, Outcome, Retention, connect
from streamfer.publish.append import ScriptAppender, ServerAppender, choose_appender, entry_number
from streamfer.records import Record

KEYS = Keys()
N, D = Outcome.NEW, Outcome.DUPLICATE


def clips(count: int, source: str = "hall") -> list[Record]:
    return [Record.of(labelled(span(start_pts=i)), source_id=source).numbered(i) for i in range(count)]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with closing(connect(redis_url)) as client:
        yield client


class TestScript:
    appender = ScriptAppender(KEYS, Retention(max_entries=1000, dedup_seconds=60))

    def test_each_record_once_and_in_order(self, client: redis.Redis) -> None:
        records = clips(5)
        assert self.appender.append(client, records[:3]) == [N, N, N]
        assert self.appender.append(client, [records[1], records[3], records[4], records[3]]) == [D, N, N, D]
        entries: Any = client.xrange("streamfer:{0}:clips")
        assert [Record.from_fields(fields) for _, fields in entries] == records

    def test_every_kind_finds_its_stream(self, client: redis.Redis) -> None:
        assert self.appender.append(client, list(examples().values())) == [N] * 4
        lengths = {name: client.xlen(KEYS.stream(name)) for name in ("clips", "captions", "sources")}
        assert lengths == {"clips": 2, "captions": 1, "sources": 1}

    def test_the_window_ends(self, client: redis.Redis) -> None:
        (record,) = clips(1)
        self.appender.append(client, [record])
        assert 0 < int(client.ttl(KEYS.seen(record))) <= 60
        client.delete(KEYS.seen(record))
        assert self.appender.append(client, [record]) == [N]

    def test_a_failed_append_leaves_no_mark(self, client: redis.Redis) -> None:
        """Otherwise the retry would be taken for a duplicate of a record that is nowhere."""
        (record,) = clips(1)
        client.set("streamfer:{0}:clips", "not a stream")
        with pytest.raises(faults.ResponseError, match="WRONGTYPE") as caught:
            self.appender.append(client, [record])
        assert record.id not in str(caught.value)
        client.delete("streamfer:{0}:clips")
        assert self.appender.append(client, [record]) == [N]

    def test_streams_are_trimmed(self, client: redis.Redis) -> None:
        appender = ScriptAppender(KEYS, Retention(max_entries=200, dedup_seconds=60))
        records = clips(1000)
        assert appender.append(client, records) == [N] * 1000
        entries: Any = client.xrange("streamfer:{0}:clips")
        assert 200 <= len(entries) < 500
        assert Record.from_fields(entries[-1][1]) == records[-1]
        assert appender.append(client, records[:1]) == [D], "trimmed, yet still remembered"


class ModelPipeline(redis.client.Pipeline):
    """Carries out what was queued on a model of Redis 8.6 and keeps the commands."""

    server: Redis86

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = [arguments for arguments, _ in self.command_stack]
        self.reset()
        return [self.server.answer(arguments) for arguments in commands]


class Redis86(redis.Redis):
    """Knows as much of Redis 8.6 as the appender relies on; redis-py builds the commands."""

    def __init__(self, version: str = "8.6.0") -> None:
        super().__init__()
        self.version = version
        self.commands: list[tuple[Any, ...]] = []
        self.streams: dict[str, list[int]] = {}
        self.ids: dict[tuple[str, str, bytes], int] = {}
        self.clock = 100

    def info(self, *args: Any, **kwargs: Any) -> Any:
        return {"redis_version": self.version}

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> ModelPipeline:
        assert transaction, "the reply is only conclusive inside MULTI/EXEC"
        pipeline = ModelPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.server = self
        return pipeline

    def answer(self, command: tuple[Any, ...]) -> Any:
        self.commands.append(command)
        name, stream = command[0], command[1]
        if name == "EVAL":
            stream = command[3]
            known = stream in self.streams
            self.streams.setdefault(stream, [])
            return 0 if known else 1
        if name == "XINFO STREAM":
            return {"last-generated-id": f"{max(self.streams[stream], default=0)}-0".encode()}
        assert name == "XADD"
        producer, identity = command[command.index(b"IDMP") + 1 : command.index(b"IDMP") + 3]
        key = (stream, producer, identity)
        if key not in self.ids:
            self.clock += 1
            self.ids[key] = self.clock
            self.streams[stream].append(self.clock)
        return f"{self.ids[key]}-0".encode()


class TestServer:
    retention = Retention(max_entries=500, dedup_seconds=3600)

    def test_commands(self) -> None:
        server, (record,) = Redis86(), clips(1)
        appender = ServerAppender(KEYS, self.retention, "site")
        assert appender.append(server, [record]) == [N]
        create, look, add = server.commands
        assert create[0] == "EVAL"
        assert "XCFGSET" in create[1]
        assert create[2:] == (1, "streamfer:{0}:clips", "3600")
        assert look == ("XINFO STREAM", "streamfer:{0}:clips")
        flat = [text for pair in record.to_fields().items() for text in pair]
        assert add == (
            "XADD",
            "streamfer:{0}:clips",
            b"IDMP",
            "site",
            record.id.encode(),
            b"MAXLEN",
            b"~",
            "500",
            "*",
            *flat,
        )

    def test_outcomes(self) -> None:
        server, records = Redis86(), clips(4)
        appender = ServerAppender(KEYS, self.retention, "site")
        assert appender.append(server, [records[0], records[1], records[0]]) == [N, N, D]
        assert appender.append(server, [records[1], records[2], records[2], records[3]]) == [D, N, D, N]
        again = ServerAppender(KEYS, self.retention, "site")
        assert again.append(server, records) == [D] * 4, "a restarted producer is recognised"

    def test_outcomes_keep_their_places_across_streams(self) -> None:
        server, mixed = Redis86(), list(examples().values())
        appender = ServerAppender(KEYS, self.retention, "site")
        appender.append(server, [mixed[1]])
        assert appender.append(server, mixed) == [N, D, N, N]

    def test_a_refusal_surfaces(self) -> None:
        class Full(Redis86):
            def answer(self, command: tuple[Any, ...]) -> Any:
                return faults.OutOfMemoryError("OOM") if command[0] == "XADD" else super().answer(command)

        with pytest.raises(faults.OutOfMemoryError):
            ServerAppender(KEYS, self.retention, "site").append(Full(), clips(1))


def test_the_creating_script_runs_on_a_server(client: redis.Redis) -> None:
    """Redis before 8.6 has no XCFGSET, so here only the creation without leftovers can be seen."""
    with pytest.raises(faults.ResponseError, match=r"(?i)unknown.*command"):
        ServerAppender(KEYS, Retention(), "site").append(client, clips(1))
    assert client.xlen("streamfer:{0}:clips") == 0
    assert client.xinfo_groups("streamfer:{0}:clips") == []


@pytest.mark.parametrize(
    ("version", "kind"),
    [("6.2.14", ScriptAppender), ("8.4.9", ScriptAppender), ("8.6.0", ServerAppender), ("9.0.1", ServerAppender)],
)
def test_the_way_follows_the_version(version: str, kind: type) -> None:
    assert isinstance(choose_appender(Redis86(version), KEYS, Retention(), "site"), kind)


def test_a_server_that_hides_its_version_gets_the_script() -> None:
    class Shy(Redis86):
        def info(self, *args: Any, **kwargs: Any) -> Any:
            raise faults.NoPermissionError("NOPERM")

    assert isinstance(choose_appender(Shy(), KEYS, Retention(), "site"), ScriptAppender)


def test_entry_ids_sort_as_numbers() -> None:
    assert entry_number(b"9-10") > entry_number("9-9") > entry_number("8-99")
    assert entry_number("7") == (7, 0)
