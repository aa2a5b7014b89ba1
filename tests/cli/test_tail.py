"""``streamfer tail``: what a subscriber sees, one line a record."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from command_line import streamfer, when
from record_examples import examples, labelled, span

from streamfer.config import PublishConfig
from streamfer.publish import Publisher, connect
from streamfer.records import Record

ALL = ("--streams", "clips,captions,sources,frames")


@pytest.fixture
def published(redis_url: str) -> list[Record]:
    """One record of each type and two more clips, in Redis."""
    records = [replace(record, sequence=None) for record in examples().values()]
    records += [
        Record.of(labelled(span(start_pts=number, end_pts=number + 1875)), source_id="door") for number in (5000, 6000)
    ]
    with Publisher.open(PublishConfig(redis=redis_url)) as publisher:
        publisher.publish_many(records)
    return records


def pending(url: str, stream: str, group: str) -> int:
    with closing(connect(url)) as client:
        facts: Any = client.xpending(stream, group)
        return int(facts["pending"])


def test_every_kind_of_record_is_a_line(published: list[Record], redis_url: str) -> None:
    done = streamfer("tail", redis_url, "--since", "1h", "--idle", "0.3", *ALL)
    lines = done.out.splitlines()
    assert (done.code, done.err, len(lines)) == (0, "", len(published))
    text = done.out
    assert "hall  0-3  happiness ███████░░░ 70%" in text
    assert "Die Lippen öffnen sich" in text
    assert "backoff: rtsp://***@camera/live: connection refused (attempt 2, next in 1.5 s)" in text
    assert "gap: 2 frames, queue_full" in text
    assert "hall  2 frames, 1 faces at most" in text


def test_json_lines_are_whole_records(published: list[Record], redis_url: str) -> None:
    done = streamfer("tail", redis_url, "--from", "start", "--json", "--idle", "0.3", *ALL)
    found = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "")
    assert {entry["id"] for entry in found} == {record.id for record in published}
    for entry in found:
        record = next(record for record in published if record.id == entry["id"])
        assert entry["data"] == json.loads(record.data.to_json())
        assert entry["type"] == record.type


def test_a_count_ends_it(published: list[Record], redis_url: str) -> None:
    done = streamfer("tail", redis_url, "--from", "start", "-n", "2")
    assert (done.code, len(done.out.splitlines())) == (0, 2)


@pytest.mark.usefixtures("published")
def test_streams_and_sources_are_chosen(redis_url: str) -> None:
    start = ("tail", redis_url, "--from", "start", "--idle", "0.3", "--json")

    def kinds(stream: str) -> list[str]:
        return [json.loads(line)["type"] for line in streamfer(*start, "--streams", stream).out.splitlines()]

    clip, gap, caption, state = (
        f"streamfer.{kind}.v1" for kind in ("clip.labelled", "gap", "clip.captioned", "source.state")
    )
    # A gap stands where the clips would have been.
    assert kinds("clips") == [clip, gap, clip, clip]
    assert kinds("captions") == [caption]
    assert kinds("sources") == [state]
    door = [json.loads(line)["subject"] for line in streamfer(*start, "-s", "door").out.splitlines()]
    assert door == ["door", "door"]


def test_a_group_shares_and_acknowledges(published: list[Record], redis_url: str) -> None:
    member = ("tail", redis_url, "--group", "g", "--from", "start", "--idle", "0.3", "--streams", "clips", "--json")
    ours = [record.id for record in published if record.type.endswith(("clip.labelled.v1", "gap.v1"))]
    first = streamfer(*member, "--consumer", "one", "-n", "1").out.splitlines()
    assert len(first) == 1
    # What was printed is done with; what was fetched with it waits for the same member to come back.
    assert pending(redis_url, "streamfer:{0}:clips", "g") == len(ours) - 1
    rest = streamfer(*member, "--consumer", "one").out.splitlines()
    assert pending(redis_url, "streamfer:{0}:clips", "g") == 0
    assert [json.loads(line)["id"] for line in first + rest] == ours
    assert streamfer(*member, "--consumer", "two").out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_count(published: list[Record], redis_url: str, number: int) -> None:
    def joined() -> bool:
        with closing(connect(redis_url)) as client:
            groups: Any = client.xinfo_groups("streamfer:{0}:clips")
            return any(group["name"] == b"g" and group["last-delivered-id"] != b"0-0" for group in groups)

    with when(joined, lambda: os.kill(os.getpid(), number)) as signalled:
        done = streamfer("tail", redis_url, "-g", "g", "--streams", "clips", "--from", "start", "--idle", "30")
    assert signalled
    assert done.code == (130 if number == signal.SIGINT else 0)
    assert done.err.endswith(f"{len(done.out.splitlines())} records\n")


def test_new_records_are_waited_for(redis_url: str) -> None:
    done = streamfer("tail", redis_url, "--idle", "0.2")
    assert (done.code, done.out) == (0, "")
    assert done.err == "waiting for new records; Ctrl-C ends\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--streams", "clip"), "no stream 'clip': choose from clips, captions, sources"),
        (("--streams", ","), "no stream '': choose from clips, captions, sources"),
        (("--from", "yesterday"), "yesterday"),
        (("--prefix", "a b"), "prefix"),
    ],
)
def test_wrong_choices_are_one_line(redis_url: str, words: tuple[str, ...], message: str) -> None:
    done = streamfer("tail", redis_url, "--idle", "0.3", *words)
    assert (done.code, done.out, len(done.complaints)) == (2, "", 1)
    assert message in done.complaints[0]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://me:hunter2@127.0.0.1:1", "***"),
        ("me:hunter2@127.0.0.1", "has no scheme: write redis://HOST:PORT/0"),
        ("ftp://me:hunter2@h", "scheme 'ftp' is not one of redis://"),
        ("redis://me:hunter2@h:x/0", "the port is no number"),
    ],
)
def test_no_server_is_one_line_without_the_password(url: str, words: str) -> None:
    done = streamfer("tail", url)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert words in done.err
    assert "hunter2" not in done.err
