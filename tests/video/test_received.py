"""Live sources that come by themselves (UDP, RTP, SDP), and live playlists, from real senders."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from free_ports import free_port
from rtmp_server import Player

from streamfer.config import LiveConfig
from streamfer.errors import ConfigError, SourceUnreachableError
from streamfer.video import Frame, LiveSource, find_sources, open_source
from streamfer.video.connection import Connection
from streamfer.video.playlist import Playlist

FPS = 25
QUICK = {"backoff_first": 0.1, "backoff_cap": 0.1}


def write(target: Any, kind: str, frames: Iterator[int], **options: str) -> None:
    """Encode a brightness a frame, H.264 64x48 with a key picture every fifth of a second, as fast as frames come."""
    with av.open(target, "w", format=kind, options=options) as container:
        track = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "tune": "zerolatency"})
        track.width, track.height, track.pix_fmt, track.codec_context.gop_size = 64, 48, "yuv420p", 5
        for number in frames:
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 3 * number % 250, np.uint8))
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            container.mux(track.encode(picture))
        container.mux(track.encode(None))


@contextmanager
def sending(url: str, kind: str) -> Iterator[None]:
    over = threading.Event()

    def paced() -> Iterator[int]:
        number = 0
        while not over.wait(1 / FPS):
            yield number
            number += 1

    thread = threading.Thread(target=write, args=(url, kind, paced()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def place_of(how: str, port: int, tmp_path: Path) -> str:
    place = {"udp": f"udp://@:{port}", "rtp": f"rtp://127.0.0.1:{port}", "sdp": str(tmp_path / "hall.sdp")}[how]
    if how == "sdp":
        session = (
            "v=0",
            "o=- 0 0 IN IP4 127.0.0.1",
            "s=hall",
            "c=IN IP4 127.0.0.1",
            "t=0 0",
            f"m=video {port} RTP/AVP 33",
        )
        Path(place).write_text("\r\n".join([*session, ""]))
    return place


@pytest.mark.parametrize("how", ["udp", "rtp", "sdp"])
def test_what_is_sent_to_a_port_is_a_camera(how: str, tmp_path: Path) -> None:
    port = free_port(1)
    (spec,) = find_sources([place_of(how, port, tmp_path)])
    # Also when its sender comes back: who receives has given the port back.
    source = open_source(spec, LiveConfig.model_validate({**QUICK, "stall_timeout": 1.0}))
    assert isinstance(source, LiveSource)
    kind, target = ("mpegts", "udp") if how == "udp" else ("rtp_mpegts", "rtp")
    items = source.stream()
    for epoch in range(2 if how == "udp" else 1):
        with sending(f"{target}://127.0.0.1:{port}", kind):
            frame = next(item for item in items if isinstance(item, Frame))
            assert (frame.epoch, frame.image.shape) == (epoch, (48, 64, 3))
        stalled = next(item for item in items if not isinstance(item, Frame) and item.state == "stalled")
        assert "no picture for 1 s" in stalled.reason
    source.close()


@pytest.mark.parametrize("how", ["udp", "rtp", "sdp"])
def test_silence_that_ffmpeg_tells_first_is_a_stall_as_well(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It has the patience that we have, so that either may come first.
    monkeypatch.setattr(
        "streamfer.video.live.Connection", lambda spec, **more: Connection(spec, **{**more, "timeout": 0.5})
    )
    port = free_port(1)
    (spec,) = find_sources([place_of(how, port, tmp_path)])
    source = open_source(spec, LiveConfig.model_validate({**QUICK, "stall_timeout": 1.0}))
    items = source.stream()
    kind, target = ("mpegts", "udp") if how == "udp" else ("rtp_mpegts", "rtp")
    with sending(f"{target}://127.0.0.1:{port}", kind):
        next(item for item in items if isinstance(item, Frame))
    told = next(item for item in items if not isinstance(item, Frame))
    source.close()
    assert (told.state, "no picture for 1 s" in told.reason) == ("stalled", True)


@pytest.mark.parametrize("scheme", ["tcp", "rtmp"])
def test_a_server_that_sends_is_a_camera(scheme: str) -> None:
    """Also when it ends the connection, and takes the next one."""
    asked: list[str] = []
    seen = [threading.Event(), threading.Event()]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for event in seen:
                peer, _ = listener.accept()
                with peer, peer.makefile("rwb") as plain:
                    player = Player(plain) if scheme == "rtmp" else None
                    asked.append(player.asked if player else "")
                    write(player or plain, "flv" if player else "mpegts", iter(range(2 * FPS)))
                    plain.flush()
                    # Nothing more comes, and no sound either: what has come is enough.
                    event.wait(60)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        (spec,) = find_sources([f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/app/hunter2"])
        source = open_source(spec, LiveConfig.model_validate({**QUICK, "wait": False}))
        items = source.stream()
        for epoch in range(2):
            frame = next(item for item in items if isinstance(item, Frame) and item.epoch == epoch)
            assert frame.image.shape == (48, 64, 3)
            seen[epoch].set()
        source.close()
        thread.join()
    assert asked == ["hunter2" if scheme == "rtmp" else ""] * 2
    assert "hunter2" not in spec.source_id + spec.location


def test_a_session_description_is_no_film_and_what_cannot_be_received_is_said(tmp_path: Path) -> None:
    path = tmp_path / "hall.sdp"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        path.write_text(f"v=0\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video {port} RTP/AVP 33\r\n")
        for place, said in ((str(path), "check its addresses"), (f"udp://@:{port}", "receives from this port")):
            with pytest.raises((SourceUnreachableError, ValueError), match=said):
                list(LiveSource(find_sources([place])[0], LiveConfig(wait=False)).stream())
    with pytest.raises(ConfigError, match="does not end"):
        find_sources([str(path)])[0].whole()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_playlist_that_stops_is_an_outage_and_nothing_of_it_comes_twice(tmp_path: Path) -> None:
    def grow(first: int, seconds: int) -> None:
        flags = "omit_endlist+append_list" if first else "omit_endlist"
        options = {"hls_time": "1", "hls_flags": flags, "hls_segment_filename": str(tmp_path / "%d.ts")}
        write(str(tmp_path / "live.m3u8"), "hls", iter(range(first, first + seconds * FPS)), **options)

    grow(0, 2)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (spec,) = find_sources([f"http://127.0.0.1:{server.server_port}/live.m3u8"])
        settings = LiveConfig.model_validate({**QUICK, "stall_timeout": 1.0, "open_timeout": 1.5})
        seen: list[tuple[float, int]] = []
        states: list[str] = []
        grown = False
        for item in LiveSource(spec, settings).stream():
            if not isinstance(item, Frame):
                states.append(item.state)
                # Opened again, and nothing new is there.
                if not grown and "stalled" in states and states[-2:] == ["connecting", "backoff"]:
                    grow(2 * FPS, 1)
                    grown = True
                continue
            seen.append((time.monotonic(), int(item.image.mean())))
            if grown:
                break
        server.shutdown()
    levels = [level for _, level in seen]
    assert len(levels) > 1.5 * FPS
    assert levels[-1] > max(levels[:-1]), "what was there comes once"
    assert seen[-2][0] - seen[0][0] > 1.5, "two seconds of pictures, which came at once, take two"


def test_a_film_in_a_loop_goes_on() -> None:
    playlist = Playlist()
    for connection in range(2):
        playlist.begin()
        for loop in range(2):
            for pts in range(10):
                playlist.packet(pts, 100 + pts)
                # Behind the newest picture that came before, the same is another.
                assert playlist.came_already(pts) == (connection == 1 and loop == 0)
