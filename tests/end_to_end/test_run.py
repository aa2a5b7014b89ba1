"""``streamfer run`` against a real RTSP server: clips arrive, outages are told, signals end it in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import streamfer, streamfer_while, wait_for, when
from published import everything

from streamfer.publish import connect
from streamfer.records import ClipLabelled, SourceStateChanged

QUICK = ("--detector", "lbp", "--fps", "4", "--clip-seconds", "1")


def clips(url: str, epoch: int | None = None) -> list[ClipLabelled]:
    found = [record.data for record in everything(url) if isinstance(record.data, ClipLabelled)]
    return [document for document in found if epoch in (None, document.clip.epoch)]


def states(url: str) -> list[SourceStateChanged]:
    return [record.data for record in everything(url) if isinstance(record.data, SourceStateChanged)]


def has_clips(url: str) -> bool:
    """Cheap enough to be asked often."""
    with closing(connect(url)) as client:
        count: Any = client.xlen("streamfer:{0}:clips")
        return bool(count)


def test_an_outage_is_told_and_clips_come_again(
    rtsp_server: Callable[..., Any], long_face_film: Path, tiny_model: Path, redis_url: str
) -> None:
    server = rtsp_server("--file", str(long_face_film))
    words = ("run", server.url(credentials="me:hunter2"), "--redis", redis_url, "--model", tiny_model, *QUICK)
    # However busy the machine is, no picture is dropped and nothing is called stalled.
    patient = ("live.stall_timeout=60", "live.staleness=60", "live.queue_frames=256")
    settings = [word for each in (*patient, "live.backoff_first=0.2", "live.backoff_cap=1") for word in ("--set", each)]

    def break_it() -> None:
        wait_for(lambda: bool(clips(redis_url)), "a clip")
        server.kill()
        wait_for(lambda: any(change.state == "backoff" for change in states(redis_url)), "backoff")
        server.start()
        wait_for(lambda: bool(clips(redis_url, epoch=1)), "a clip of the second epoch")

    done = streamfer_while(break_it, *words, *settings)
    assert done.code == 0
    assert "follow the records with: streamfer tail" in done.err
    assert ": stopped; " in done.err.splitlines()[-1]
    told = states(redis_url)
    order = [change.state for change in told]
    assert order.index("online") < order.index("backoff") < len(order) - 1 - order[::-1].index("online")
    assert [change.epoch for change in told if change.state == "online"] == [0, 1]
    backoff = next(change for change in told if change.state == "backoff")
    assert backoff.reason
    assert backoff.delay is not None
    assert 0 < backoff.delay <= 1
    for document in clips(redis_url):
        # Complete windows only, each with its real capture time.
        assert document.clip.frames_sampled >= 2
        assert document.clip.time_origin in ("wallclock", "rtcp")
        assert set(document.faces[0].emotions) == {"joy", "gloom", "calm"}
    lines = [line for line in done.out.splitlines() if "backoff" not in line and "online" not in line]
    assert len(lines) >= len(clips(redis_url))
    shown = done.out + done.err + "".join(record.to_json() for record in everything(redis_url))
    assert "hunter2" not in shown


def test_an_interrupt_publishes_what_is_complete_and_exits_with_130(
    rtsp_server: Callable[..., Any], long_face_film: Path, tiny_model: Path, redis_url: str, tmp_path: Path
) -> None:
    server = rtsp_server("--file", str(long_face_film))
    file = tmp_path / "run.yaml"
    file.write_text(f"sources:\n  - {{url: '{server.url()}', id: lobby}}\npublish: {{redis: '{redis_url}'}}\n")
    with when(lambda: has_clips(redis_url), lambda: os.kill(os.getpid(), signal.SIGINT)) as interrupted:
        done = streamfer("run", "-c", file, "--model", tiny_model, *QUICK, "--purpose", "counting smiles")
    assert interrupted
    assert done.code == 130
    assert done.err.count("people in view must be told") == done.err.count("purpose of this run: counting smiles") == 1
    records: list[Any] = list(everything(redis_url))
    assert {record.data.producer.purpose for record in records} == {"counting smiles"}
    assert {record.subject for record in records} == {"lobby"}
    shown = sum("  lobby  " in line and ("█" in line or "░" in line) for line in done.out.splitlines())
    assert shown == len(clips(redis_url)) >= 1
    assert done.err.splitlines()[-1].startswith("lobby: stopped; ")


def test_files_run_too_and_end_by_themselves(face_film: Path, tiny_model: Path, redis_url: str) -> None:
    done = streamfer("run", face_film, "--redis", redis_url, "--model", tiny_model, *QUICK, "--quiet")
    assert (done.code, done.out, done.complaints) == (0, "", [])
    assert "astronaut.mp4: ended; " in done.err
    assert f"{len(clips(redis_url))} clips of " in done.err
    assert [change.state for change in states(redis_url)] == ["online", "ended"]
    with closing(connect(redis_url)) as client:
        keys: Any = client.keys("streamfer:*astronaut.mp4*")
        assert any(client.hget(key, "state") == b"ended" for key in keys if client.type(key) == b"hash")


@pytest.mark.parametrize("url", ["rtsp://me:hunter2@127.0.0.1:9/live", "http://me:hunter2@127.0.0.1:9/a.mp4"])
def test_a_url_that_does_not_answer_is_one_line(url: str, tiny_model: Path, redis_url: str) -> None:
    words = ("--redis", redis_url, "--model", tiny_model, "--set", "live.open_timeout=3", "--no-wait")
    done = streamfer("run", url, *words)
    assert done.code == 2
    (line,) = done.complaints
    assert line.startswith("127.0.0.1-")
    assert "hunter2" not in done.out + done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no source: name one (rtsp://...)"),
        (("absent.mp4",), "absent.mp4: no such file or folder"),
        (("rtsp://",), "names no host"),
        (("gopher://h/a",), "the scheme 'gopher' is not allowed"),
        (("rtsp://h:port/a",), "not a valid URL"),
    ],
)
def test_what_is_no_source_is_one_line(words: tuple[str, ...], message: str) -> None:
    done = streamfer("run", *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert message in done.complaints[0]


def test_ids_must_differ(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("sources: [{url: 'rtsp://a/x', id: hall}, {url: 'rtsp://b/x', id: hall}]\n")
    done = streamfer("run", "-c", file)
    assert done.complaints == ["sources: the id 'hall' is used twice; give each source an id of its own"]
    assert done.code == 2


def test_a_live_source_is_no_whole_clip(tiny_model: Path, redis_url: str) -> None:
    words = ("rtsp://127.0.0.1:9/live", "--set", "clip.mode=whole", "--redis", redis_url, "--model", tiny_model)
    done = streamfer("run", *words, "--detector", "lbp")
    assert done.code == 2
    assert "a live source needs 'window'" in done.err
