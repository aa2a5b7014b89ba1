"""Live sources against a real RTSP server: coming online, breaking, coming back, being refused."""

from __future__ import annotations

import http.server
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Protocol

import pytest
from command_line import wait_for
from fakes.video import sampled
from hypothesis import given
from hypothesis import strategies as st

from streamfer.config import LiveConfig
from streamfer.errors import (
    SourceDeniedError,
    SourceNotFoundError,
    SourceUnreachableError,
    SourceUnreadableError,
)
from streamfer.video import Frame, LiveSource, StateChange, find_sources, open_source
from streamfer.video.clock import Nap
from streamfer.video.connection import Opened
from streamfer.video.live import reconnect_delay

QUICK = {"backoff_first": 0.2, "backoff_cap": 0.5}


class Server(Protocol):
    def url(self, mount: str = "live", credentials: str = "") -> str: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


StartServer = Callable[..., Server]


class Unshaken(random.Random):
    """Chance that takes nothing off a wait."""

    def random(self) -> float:
        return 0.0


def live(url: str, **settings: object) -> LiveSource:
    return LiveSource(find_sources([url])[0], LiveConfig.model_validate({**QUICK, "wait": False, **settings}))


def until_frames(items: Iterator[Frame | StateChange], count: int) -> tuple[list[StateChange], list[Frame]]:
    states: list[StateChange] = []
    frames: list[Frame] = []
    for item in items:
        if isinstance(item, Frame):
            frames.append(item)
        else:
            states.append(item)
        if len(frames) == count:
            break
    return states, frames


def test_it_comes_online_and_is_sampled_by_time(rtsp_server: StartServer) -> None:
    source = live(rtsp_server().url())
    began = time.time()
    states, frames = until_frames(source.stream(sampled(5)), 6)
    assert [state.state for state in states] == ["connecting", "online"]
    info = states[1].info
    assert info is not None
    assert (info.width, info.height, info.codec, info.live) == (160, 120, "h264", True)
    assert info.declared_fps == pytest.approx(25)
    assert int(info.epoch_key) == round(frames[0].wall_time * 1000)
    assert [round(frame.seconds, 3) for frame in frames] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert source.frames_decoded >= 26
    assert all(frame.image.shape == (120, 160, 3) for frame in frames)
    assert all(began - 5 < frame.wall_time <= time.time() for frame in frames)
    assert {frame.time_origin for frame in frames} <= {"wallclock", "rtcp"}


def test_a_server_that_dies_and_returns_opens_a_new_epoch(rtsp_server: StartServer) -> None:
    server = rtsp_server()
    source = live(server.url())
    items = source.stream()
    _, before = until_frames(items, 3)
    server.kill()
    lost: list[StateChange] = []
    for item in items:
        if isinstance(item, StateChange):
            lost.append(item)
            if len([state for state in lost if state.state == "backoff"]) == 2:
                break
    server.start()
    found, after = until_frames(items, 3)
    source.close()
    rest = [item for item in items if isinstance(item, StateChange)]
    assert [state.state for state in lost] == ["backoff", "connecting", "backoff"]
    assert [state.attempt for state in lost if state.state == "backoff"] == [1, 2]
    assert "Connection refused" in lost[-1].reason
    assert [state.state for state in found][-2:] == ["connecting", "online"]
    assert {frame.epoch for frame in before} == {0}
    assert {frame.epoch for frame in after} == {1}
    assert (after[0].pts, after[0].index) == (0, 0)
    assert [state.state for state in rest] == ["ended"]


def test_a_server_that_freezes_is_noticed_by_its_missing_frames(rtsp_server: StartServer) -> None:
    server = rtsp_server()
    source = live(server.url(), stall_timeout=1.8)
    items = source.stream()
    before = until_frames(items, 3)[1][-1].epoch
    server.freeze()
    states = list(until_states(items, "backoff"))
    server.thaw()
    assert [state.state for state in states] == ["stalled", "backoff"]
    assert "no picture for 1.8 s" in states[0].reason
    states, frames = until_frames(items, 1)
    assert states[-1].state == "online"
    assert frames[0].epoch == before + 1
    source.close()


def test_a_stuck_call_is_abandoned_within_a_second_of_the_stall(rtsp_server: StartServer) -> None:
    """FFmpeg stays in its read for a multiple of its timeout: its thread is left behind, and the camera reopened."""
    server = rtsp_server()
    source = live(server.url(), stall_timeout=1)
    items = source.stream()
    epoch = until_frames(items, 3)[1][-1].epoch
    took: list[float] = []
    # A busy machine is late by itself; the best of a few tries tells.
    while len(took) < 4 and min(took, default=9.0) > 1 + 1:
        server.freeze()
        last = time.monotonic()
        for item in items:
            if isinstance(item, Frame):
                last, epoch = time.monotonic(), item.epoch
            elif item.state == "backoff":
                break
        took.append(time.monotonic() - last)
        assert any(stuck.alive for stuck in source._stuck), "FFmpeg has not come back"
        assert took[-1] >= 1
        server.thaw()
        states, frames = until_frames(items, 1)
        assert (states[-1].state, frames[0].epoch) == ("online", epoch + 1)
        epoch += 1
    assert min(took) <= 1 + 1
    source.close()


def test_a_machine_that_slept_opens_its_cameras_again_at_once(
    rtsp_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of deadlines rests with the machine: no stall is noticed for as long as the camera is given."""
    slept = [0.0]
    monkeypatch.setattr(Nap, "seconds", property(lambda _nap: slept[0]))
    source = live(rtsp_server().url(), stall_timeout=30)
    items = source.stream()
    until_frames(items, 3)
    slept[0] = 29.0
    assert not until_frames(items, 3)[0], "shorter than a stall: what waits is taken"
    slept[0] = 3600.0
    (stalled, _), slept[0] = list(until_states(items, "backoff")), 0.0
    assert stalled.state == "stalled"
    assert "did not run for 3600 s" in stalled.reason
    assert until_frames(items, 1)[1][0].epoch == 1
    source.close()


def until_states(items: Iterator[Frame | StateChange], last: str) -> Iterator[StateChange]:
    for item in items:
        if isinstance(item, StateChange):
            yield item
            if item.state == last:
                return


def test_the_end_of_a_stream_is_a_reconnect(rtsp_server: StartServer) -> None:
    items = live(rtsp_server("--frames", "30").url()).stream()
    states = [*until_states(items, "backoff"), *until_states(items, "online")]
    assert [state.state for state in states] == ["connecting", "online", "backoff", "connecting", "online"]
    assert "the other side ended the stream" in states[2].reason
    assert [state.epoch for state in states] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("mount", "credentials", "error"),
    [
        ("nothing", "viewer:p%40ss%2Fw", SourceNotFoundError),
        ("live", "viewer:hunter2", SourceDeniedError),
        ("live", "", SourceDeniedError),
    ],
    ids=["wrong mount", "wrong password", "no password"],
)
def test_a_wrong_address_ends_at_once_in_one_line_without_the_password(
    rtsp_server: StartServer, mount: str, credentials: str, error: type[Exception]
) -> None:
    server = rtsp_server("--user", "viewer", "--password", "p@ss/w")
    with pytest.raises(error) as refused:
        list(live(server.url(mount, credentials)).stream())
    said = str(refused.value)
    assert said.startswith("127.0.0.1-")
    assert f"/{mount}" not in said
    assert "\n" not in said
    assert not any(secret in said for secret in ("hunter2", "p%40ss", "p@ss"))


def test_the_right_password_opens_whatever_it_holds(rtsp_server: StartServer) -> None:
    server = rtsp_server("--digest", "--user", "us er@x", "--password", 'p@ss/#:%[]? "\\ü')
    written = "us%20er%40x:p%40ss%2F%23%3A%25%5B%5D%3F%20%22%5C%C3%BC"
    states, frames = until_frames(live(server.url(credentials=written)).stream(), 1)
    assert len(frames) == 1
    assert not any("p%40ss" in f"{state!r}" for state in states)


def test_credentials_that_are_refused_later_are_said_and_tried_again(rtsp_server: StartServer) -> None:
    server = rtsp_server()
    source = live(server.url(credentials="viewer:hunter2"))
    items = source.stream()
    until_frames(items, 1)
    server.kill()
    server._arguments = ("--user", "viewer", "--password", "changed")  # type: ignore[attr-defined]
    server.start()
    states = list(until_states(items, "auth_failed"))
    assert "refused the credentials" in states[-1].reason
    assert "hunter2" not in f"{states!r}"
    backoff = next(items)
    assert isinstance(backoff, StateChange)
    assert (backoff.state, backoff.delay) == ("backoff", 60), "no camera is to lock the account"
    assert "tried again once in 60 s" in backoff.reason
    source.close()


@pytest.mark.parametrize(
    ("mount", "credentials", "state"),
    [("nothing", "viewer:right", "backoff"), ("live", "viewer:hunter2", "auth_failed")],
    ids=["wrong mount", "wrong password"],
)
def test_who_waits_is_never_given_up(rtsp_server: StartServer, mount: str, credentials: str, state: str) -> None:
    server = rtsp_server("--user", "viewer", "--password", "right")
    source = live(server.url(mount, credentials), wait=True)
    states = list(until_states(source.stream(), state))
    assert states[-1].reason.startswith("127.0.0.1-")
    source.close()


def test_a_transport_that_gives_nothing_is_changed(silent_port: int) -> None:
    source = live(f"rtsp://127.0.0.1:{silent_port}/live", wait=True, open_timeout=0.4, transport="auto")
    items = source.stream()
    used = []
    for _ in range(3):
        list(until_states(items, "connecting"))
        used.append(source._transport)
    source.close()
    assert used == ["tcp", "udp", "tcp"]


def test_attempts_that_never_come_back_are_bounded(
    silent_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What no limit ends, such as asking for a name, must not pile up."""
    over = threading.Event()

    def hang(*_: object, **__: object) -> None:
        over.wait(60)
        raise SourceUnreachableError("over")

    monkeypatch.setattr("streamfer.video.connection.open_container", hang)
    source = live(f"rtsp://127.0.0.1:{silent_port}/live", wait=True, open_timeout=0.2, stall_timeout=30)
    before = threading.active_count()
    reasons = [state.reason for state in islice(until_states(source.stream(), "never"), 24)]
    assert threading.active_count() - before <= 5
    assert any("4 attempts are stuck in FFmpeg" in reason for reason in reasons)
    told = [vars(line) for line in caplog.records if line.message == "source.stuck"]
    assert [(one["source"], one["attempts"]) for one in told][:4] == [(source.source_id, n) for n in (1, 2, 3, 4)]
    source.close()
    over.set()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as server:
        yield server.getsockname()[1]


def test_a_server_that_takes_the_connection_and_says_nothing(silent_port: int) -> None:
    source = live(f"rtsp://127.0.0.1:{silent_port}/live", open_timeout=0.5)
    with pytest.raises(SourceUnreachableError, match=r"no picture for 0\.5 s"):
        list(source.stream())


def test_nobody_there_fails_or_retries_as_asked() -> None:
    url = "rtsp://127.0.0.1:9/live"
    with pytest.raises(SourceUnreachableError, match="gives no video"):
        list(live(url).stream())
    waits: list[float] = []
    settings = LiveConfig(wait=True, backoff_first=1)
    patient = LiveSource(find_sources([url])[0], settings, rng=Unshaken(), sleep=waits.append)
    items = patient.stream()
    while len(waits) < 7:
        item = next(items)
        assert isinstance(item, StateChange)
        assert item.epoch == 0
    assert waits == [1, 2, 4, 8, 16, 30, 30]


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "18")
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *_: object) -> None:
        return


def test_what_answers_but_is_no_video() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SourceUnreadableError, match="not with a video"):
            list(live(f"http://127.0.0.1:{server.server_port}/stream").stream())
        server.shutdown()


def test_closing_ends_a_long_wait_at_once() -> None:
    source = live("rtsp://127.0.0.1:9/live", wait=True, backoff_first=60, backoff_cap=3600)
    items = source.stream()
    assert [state.state for state in until_states(items, "backoff")] == ["connecting", "backoff"]
    threading.Timer(0.1, source.close).start()
    assert [item.state for item in items if isinstance(item, StateChange)] == ["ended"]
    assert [item.state for item in source.stream() if isinstance(item, StateChange)] == ["ended"]


def test_a_source_leaves_no_threads_behind(rtsp_server: StartServer) -> None:
    before = set(threading.enumerate())
    items = live(rtsp_server().url()).stream()
    until_frames(items, 2)
    items.close()  # type: ignore[attr-defined]
    wait_for(lambda: set(threading.enumerate()) <= before, "all have ended")


def test_a_missing_camera() -> None:
    with pytest.raises(SourceNotFoundError, match="/dev/video99"):
        list(open_source(find_sources(["webcam:99"])[0], LiveConfig(wait=False)).stream())


@given(attempt=st.integers(1, 10**6), seed=st.integers())
def test_waits_are_capped_and_jittered_downwards(attempt: int, seed: int) -> None:
    settings = LiveConfig()
    full = reconnect_delay(settings, attempt, Unshaken())
    assert full <= settings.backoff_cap
    assert full / 2 - 1e-9 <= reconnect_delay(settings, attempt, random.Random(seed)) <= full


def test_a_slow_camera_is_given_five_pictures() -> None:
    source = live("rtsp://127.0.0.1:9/live", stall_timeout=10)
    assert source._stall_limit(Opened("h264", 25.0, None, Fraction(1, 90000))) == 10
    assert source._stall_limit(Opened("h264", 0.2, None, Fraction(1, 90000))) == 25
