"""The commands' side of publishing: the line that tells how to follow, heartbeats, readable records."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import streamfer, wait_for
from record_examples import examples, labelled

from streamfer.cli.publishing import follow_command, program
from streamfer.cli.tables import clip_table
from streamfer.cli.terminal import record_line
from streamfer.config import PublishConfig
from streamfer.errors import PublishError
from streamfer.publish import Publisher
from streamfer.publish.heartbeat import Heartbeats
from streamfer.records import Record


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({}, "streamfer tail"),
        ({"redis": "redis://h:1/2"}, "streamfer tail redis://h:1/2"),
        ({"redis": "redis://me:hunter2@h:1/2"}, "streamfer tail 'redis://***@h:1/2'"),
        ({"redis": "unix:///a b.sock"}, "streamfer tail 'unix:///a b.sock'"),
        ({"prefix": "lab", "partitions": 4}, "streamfer tail --prefix lab --partitions 4"),
    ],
)
def test_the_line_can_be_pasted(settings: dict[str, Any], command: str) -> None:
    assert follow_command(PublishConfig(**settings)) == command


def test_the_command_that_is_shown_finds_the_records(redis_url: str) -> None:
    config = PublishConfig(redis=redis_url, prefix="lab", partitions=3)
    with Publisher.open(config) as publisher:
        publisher.publish_many(list(examples().values()))
    words = shlex.split(follow_command(config, "--from", "start", "--idle", "1"))[1:]
    # Frames are followed by who asks for them.
    followed = [kind for kind in examples() if not kind.startswith("frames.")]
    assert len(streamfer(*words).out.splitlines()) == len(followed)


class FailingPublisher:
    """Counts the heartbeats that it refuses."""

    def __init__(self) -> None:
        self.calls: list[set[str]] = []

    def heartbeat(self, statuses: Mapping[str, object]) -> None:
        self.calls.append(set(statuses))
        raise PublishError("Redis at redis://me:hunter2@h is away")


def test_a_heartbeat_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamfer.publish.heartbeat")
    publisher = FailingPublisher()
    beats = Heartbeats(publisher.heartbeat)
    beats.note("a", state="online", epoch=0)
    wait_for(lambda: publisher.calls == [{"a"}], "a state is written at once")
    beats.note("a", faces=1)
    beats.note("b", state="online")
    wait_for(lambda: publisher.calls[1:] == [{"a", "b"}], "with all that is known")
    assert beats.status()["a"] == {"state": "online", "epoch": 0, "faces": 1}
    beats.note("a", state="ended")
    beats.close()
    assert set(beats.status()) == {"b"}, "what has ended is told once"
    told = [vars(line) for line in caplog.records if line.message == "publish.heartbeat_lost"]
    assert {one["reason"] for one in told} == {"Redis at redis://***@h is away"}


@pytest.mark.parametrize("record", examples().values(), ids=examples().keys())
def test_every_record_has_a_line(record: Record) -> None:
    line = record_line(record)
    assert "\n" not in line
    assert record.subject in line


def test_commands_name_the_program_so_that_they_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert program() == "streamfer"
    monkeypatch.setenv("PATH", "/nowhere")
    script = Path(sys.executable).parent / "streamfer"
    assert (Path.cwd() / program()) == script
    monkeypatch.chdir("/")
    assert Path("/", program()) == script
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert program() == "/nowhere/python -m streamfer"


def test_who_cannot_be_read_has_a_reason_in_place_of_a_bar() -> None:
    named, unsure = (
        Record.of(labelled(**face), source_id="hall") for face in (dict[str, Any](), {"top": None, "reason": "turned"})
    )
    assert record_line(named).endswith("happiness ███████░░░ 70%")
    assert record_line(unsure).endswith("unsure    turned")
    table = clip_table([named, unsure])
    assert [list(column.cells) for column in table.columns[3:]] == [
        ["███████░░░ 70%", "turned"],
        ["neutral 33%", "happiness 70%, neutral 33%"],
    ]
