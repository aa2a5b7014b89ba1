"""What people call a video: links, pipes, odd names and suffixes, pictures of every kind, servers of every kind."""

from __future__ import annotations

import base64
import http.server
import os
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_videos import in_container, tape
from PIL import Image

from streamfer.errors import SourceError, SourceUnreachableError, SourceUnreadableError
from streamfer.video import Frame, StateChange, VideoInfo, container, find_sources, open_source
from streamfer.video.files import FileSource


def pictures(count: int = 5) -> list[np.ndarray]:
    return [np.full((48, 64, 3), 8 * number, np.uint8) for number in range(count)]


def read(place: Path | str) -> tuple[VideoInfo, int, StateChange]:
    """What a source is, how many frames come of it, and its end."""
    (spec,) = find_sources([str(place)])
    first, *items = open_source(spec.whole()).stream()
    assert isinstance(first, StateChange)
    assert first.info is not None
    assert isinstance(items[-1], StateChange)
    return first.info, sum(isinstance(item, Frame) for item in items), items[-1]


def test_a_folder_is_what_it_leads_to(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    (folder / "one").mkdir(parents=True)
    elsewhere.mkdir()
    in_container(folder / "one" / "a.mkv", pictures())
    in_container(elsewhere / "b.mod", pictures())
    (folder / "linked").symlink_to(elsewhere)
    (folder / "one" / "round").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (folder / "itself.mp4").symlink_to(folder / "itself.mp4")
    tape(folder / "tape.dv", 1)
    (folder / "one" / "a.mkv").rename(folder / "one" / "recording.part1")
    (folder / "notes.txt").write_text("GIF8 is no film, and BM is no picture.\n" * 9)
    (folder / "table.csv").write_text("BM,1\n" * 300)
    found = {spec.source_id: spec for spec in find_sources([str(folder)])}
    assert set(found) == {"gone.mp4", "itself.mp4", "linked/b.mod", "one/recording.part1", "tape.dv"}
    with pytest.raises(SourceError, match=r"gone\.mp4: does not exist"):
        next(open_source(found["gone.mp4"]).stream())
    with pytest.raises(SourceError, match=r"itself\.mp4: not a video that can be decoded \(Too many levels"):
        next(open_source(found["itself.mp4"]).stream())
    for name in ("linked/b.mod", "one/recording.part1", "tape.dv"):
        assert sum(isinstance(item, Frame) for item in open_source(found[name]).stream()) in (1, 5), name


def test_a_named_pipe_is_read_once_it_is_written(tmp_path: Path) -> None:
    in_container(tmp_path / "a.mkv", pictures(30))
    data = (tmp_path / "a.mkv").read_bytes()
    pipe = tmp_path / "pipe.mkv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    writer.start()
    info, frames, last = read(pipe)
    writer.join(10)
    assert (info.width, frames, last.reason) == (64, 30, "")
    (spec,) = find_sources([str(pipe)])
    with pytest.raises(SourceUnreachableError, match=r"pipe\.mkv: nothing is written into this pipe"):
        next(FileSource(spec, timeout=0.2).stream())


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs endless devices")
def test_an_endless_stream_of_nothing_is_no_video() -> None:
    with pytest.raises(SourceUnreadableError, match="/dev/zero: not a video"):
        read("/dev/zero")


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "webp", "tiff", "avif", "jp2", "ppm"])
@pytest.mark.parametrize("suffix", ["", ".mp4"], ids=["named so", "named like a video"])
def test_pictures_of_every_kind_are_stills_whatever_they_are_called(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"a.{kind}{suffix}"
    Image.fromarray(pictures(15)[14]).save(path, {"jpg": "jpeg", "jp2": "jpeg2000"}.get(kind, kind))
    (spec,) = find_sources([str(tmp_path)])
    info, frames, last = read(path)
    assert (spec.still, info.still, info.width, frames, last.reason) == (True, True, 64, 1, "")


#: A picture of one colour, 128 x 128, as telephones store theirs, and one of four tiles.
HEIC = (
    "eNpjYGCQSSupLMhIzUxmAILczDRDEDs3MzGNgYHRKTe1JJEBAhQzUnKKoGyGgszkEgY0wFeQWZILZjECsVJmTj7YSBcHIJ8RLJwGoYFAFoiV"
    "MzPz0uDqRYGcVCYoL6Ms2RDEPJRZUFQApJdkFiTnA+kKoIQzI3MB3E65Dwx//v74wcDAz6wA1CjhwMjD+P8/SAEzwwQQAURyu5gcFIGS2k6M"
    "jGgyCwQUFCLzlkya9eyBg8OBBpAYmGhRAqpnd2E8WLRByQFojUhmcUEq1MoGKBYoyKzIBAkwc3BwACmxzIJcWFgBPczcyNQMZKnmpiSCQkpS"
    "g3E9i8SfSovX/z+ds+dVlxbcv8Ev3b0g6gAAy4lIvw=="
)
TILES = (
    "eNp1Uc1Kw0AQnuwmJZVW1KiUnoonj6ZPUK0XQa9eZc1PHcw2SwyxnqxV7159j76QDyC+gIKTzQZMsQPDt99888csAAzi/EGJAmMgK1Fi7EsU"
    "8cWxfwJgfcgoF1DZ4U2YZOYNCoMc/liC13WbTYW51EGL/BKTNCjJKYCjI+SsTegCM2yb8AB4g9kN5jQYwBviVA/TSp9IxMzESYbhOE1SvWqt"
    "WOUsURz5/yh8rWKvVZwVZYBZFJtT7IYoJ7qaUW9bb/iOKlOEV6iCtMzBOxWZ/LnxLYUzLAPcdV0CL0iTbBokM+rVhdZ8pWxkvCMKf/wEnTI2"
    "RCXr76Jjc4txYLbNXjnwCuwKnAqoQoaCPtKyaIX5Dmy0e3uPPwvW77pDb3/U6okXWD5/3ubn919L7+z7F/H2WXU="
)


def test_pictures_of_telephones_are_stills_and_those_of_tiles_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(zlib.decompress(base64.b64decode(HEIC)))
    (spec,) = find_sources([str(tmp_path)])
    info, frames, last = read(path)
    assert (spec.still, info.still, info.width, frames, last.reason) == (True, True, 128, 1, "")
    path.write_bytes(zlib.decompress(base64.b64decode(TILES)))
    with pytest.raises(SourceUnreadableError, match=r"a\.heic: a picture of 4 tiles, .*; convert it to JPEG or PNG"):
        read(path)


def test_a_webp_that_moves_is_named(tmp_path: Path) -> None:
    strips = [Image.fromarray(picture) for picture in pictures()]
    strips[0].save(tmp_path / "a.webp", save_all=True, append_images=strips[1:])
    with pytest.raises(SourceUnreadableError, match=r"a\.webp: an animated WebP, .*; convert it"):
        read(tmp_path / "a.webp")


def test_a_film_named_like_a_picture_is_a_film(tmp_path: Path) -> None:
    in_container(tmp_path / "a.mov", pictures())
    (tmp_path / "a.mov").rename(tmp_path / "a.jpg")
    (spec,) = find_sources([str(tmp_path / "a.jpg")])
    info, frames, _ = read(tmp_path / "a.jpg")
    assert (spec.still, info.still, frames) == (False, False, 5)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one film: ``/plain`` cannot begin in the middle, ``/broken`` breaks in it, ``/once`` breaks once."""

    protocol_version = "HTTP/1.1"
    film = b""
    broken = 0

    def do_GET(self) -> None:
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(asked[1]) if asked and not self.path.startswith("/plain") else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(self.film) - 1}/{len(self.film)}")
        if not self.path.startswith("/plain"):
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(self.film) - begin))
        self.end_headers()
        self.close_connection = True
        middle = len(self.film) // 2
        breaks = self.path.startswith("/broken") or (self.path.startswith("/once") and not type(self).broken)
        if breaks:
            type(self).broken += 1
        self.wfile.write(self.film[begin : max(begin, middle)] if breaks else self.film[begin:])

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    rng = np.random.default_rng(5)
    film = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(100)]
    in_container(tmp_path / "a.mov", film)
    in_container(tmp_path / "a.mkv", film)
    Server.broken = 0
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_a_server_that_cannot_begin_in_the_middle_is_read_whole(server: str, tmp_path: Path) -> None:
    # The index of this film comes last.
    Server.film = (tmp_path / "a.mov").read_bytes()
    info, frames, last = read(f"{server}/plain.mov")
    assert (frames, last.reason, last.cut_off) == (100, "", False)
    assert info.location == info.source_id


def test_a_download_that_breaks_goes_on_where_it_was(server: str, tmp_path: Path) -> None:
    Server.film = (tmp_path / "a.mkv").read_bytes()
    _, frames, last = read(f"{server}/once.mkv")
    assert (frames, last.reason, Server.broken) == (100, "", 1)


def test_a_connection_that_stays_broken_is_said_as_that(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # FFmpeg's waits double up to this limit.
    monkeypatch.setattr(container, "_RECONNECT_SECONDS", "1")
    Server.film = (tmp_path / "a.mkv").read_bytes()
    _, frames, last = read(f"{server}/broken.mkv")
    assert 20 < frames < 80
    assert last.cut_off
    assert re.match(r"the connection broke at \d\.\d s of the 4\.\d s it declares", last.reason)
    # The index of this film comes last, and never came.
    Server.film = (tmp_path / "a.mov").read_bytes()
    with pytest.raises(
        SourceUnreachableError, match=r"127\.0\.0\.1-broken\.mov-\w+: the connection broke \(.*; try again"
    ):
        read(f"{server}/broken.mov")
