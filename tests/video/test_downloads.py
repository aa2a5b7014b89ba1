"""Files that lie on a server: downloads, video on demand, and what a server refuses."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx2
import pytest
from whole_reads import corners, read

from streamfer.errors import (
    ConfigError,
    SourceDeniedError,
    SourceError,
    SourceNotFoundError,
    SourceUnreachableError,
    SourceUnreadableError,
)
from streamfer.video import (
    Frame,
    download,
    files,
    find_sources,
    open_source,
    write_video,
)
from streamfer.video.download import fetched


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/secret.mp4":
            self.send_error(401)
        elif self.path == "/endless.mp4":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"\0\0\0\x10ftypisom\0\0\2\0\0\0\0\0mdat")
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1000))
                    time.sleep(0.02)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    write_video(tmp_path / "clip.mp4", [corners()] * 10, 25)
    (tmp_path / "page.mp4").write_text("<html>not found</html>")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_is_a_file(web: str) -> None:
    info, frames, _ = read(f"http://{web}/clip.mp4")
    assert len(frames) == 10
    assert info.duration == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("secret.mp4", SourceDeniedError),
        ("missing.mp4", SourceNotFoundError),
        ("page.mp4", SourceUnreadableError),
    ],
)
def test_a_download_that_fails_is_one_line_without_the_password(web: str, name: str, error: type[SourceError]) -> None:
    with pytest.raises(error) as refused:
        read(f"http://admin:hunter2@{web}/{name}")
    # An address may hold a secret anywhere: its host, its file where that is none, and a digest name it.
    shown = "" if name == "secret.mp4" else f"{name}-"
    assert re.match(rf"127\.0\.0\.1-{shown}[0-9a-f]{{8}}: ", str(refused.value))
    assert "hunter2" not in str(refused.value)


def without_suffix(folder: Path) -> str:
    (folder / "clip.mp4").rename(folder / "download")
    return "download?id=7"


def on_demand(folder: Path) -> str:
    write_video(folder / "part.ts", [corners()] * 10, 25)
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:0.4,", "part.ts", "#EXT-X-ENDLIST"]
    (folder / "index.m3u8").write_text("\n".join(lines) + "\n")
    return "index.m3u8"


@pytest.mark.parametrize("make", [without_suffix, on_demand])
@pytest.mark.parametrize("whole", [True, False], ids=["annotate", "run"])
def test_video_on_demand_is_no_live_source(web: str, tmp_path: Path, make: Callable[[Path], str], whole: bool) -> None:
    (spec,) = find_sources([f"http://{web}/{make(tmp_path)}"])
    opened = open_source(spec.whole() if whole else spec)
    lives, frames = [], []
    for item in opened.stream():
        if isinstance(item, Frame):
            frames.append(item)
            lives.append(opened.live)
        elif item.info is not None:
            assert (item.info.live, item.info.epoch_key) == (False, spec.address_key)
    assert lives == [False] * 10
    assert [(frame.time_origin, round(frame.wall_time, 2)) for frame in frames] == [
        ("file", round(0.04 * index, 2)) for index in range(10)
    ]


def test_what_does_not_end_is_not_read_as_a_whole(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor opened for ever: its index, which might come last, never comes."""
    for module in (files, download):
        monkeypatch.setattr(module, "MOST_SECONDS", 0.5)
    with pytest.raises(SourceUnreadableError, match=r"its index comes last.*or has no end"):
        read(f"http://{web}/endless.mp4")
    index = tmp_path / on_demand(tmp_path)
    index.write_text(index.read_text().replace("#EXT-X-ENDLIST\n", ""))
    with pytest.raises(SourceUnreadableError, match="a live source, which does not end; watch it with run or stream"):
        list(open_source(find_sources([f"http://{web}/index.m3u8"])[0].whole()).stream())
    with pytest.raises(ConfigError, match="/dev/video0: a live source"):
        find_sources(["webcam:0"])[0].whole()


@pytest.mark.parametrize(
    ("said", "way_out"), [("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed", "SSL_CERT_FILE"), ("reset", "try again")]
)
def test_a_connection_that_breaks_says_the_way_out(
    said: str, way_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise httpx2.ConnectError(said)

    monkeypatch.setattr("streamfer.video.download._fetch", broken)
    (spec,) = find_sources(["https://h/clip.mp4"])
    with pytest.raises(SourceUnreachableError, match=rf"the connection broke \(.*; .*{way_out}$"), fetched(spec, 1.0):
        pass


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(SourceUnreachableError, match="gives no video"):
        read("http://127.0.0.1:9/clip.mp4")
