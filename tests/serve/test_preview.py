"""Pictures of the sources: none unless somebody asks, none for long, and never at the cost of a label."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import discover, wait_for
from fakes.faces import bright_squares
from numpy.typing import NDArray

import streamfer
from streamfer.api.preview import Previews
from streamfer.config import Config, load_config
from streamfer.errors import ConfigError
from streamfer.publish import Publisher, connect
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.serve.dashboard import serving

KEY, ASKED = "streamfer:preview:lobby", "streamfer:asked:lobby"
LOADING_SECONDS = 120.0


def frame() -> NDArray[np.uint8]:
    """A dark picture with a bright, finely striped face from (200, 100) to (300, 200)."""
    image = np.full((360, 640, 3), 60, np.uint8)
    image[100:200, 200:300] = 255
    image[100:200:4, 200:300] = 201
    image[101:200:4, 200:300] = 201
    return image


def stripes(picture: bytes) -> float:
    """How much rows of the face differ from the next but one."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert image.shape == (360, 640)
    face = image[110:190, 210:290].astype(float)
    return float(np.abs(face[2:] - face[:-2]).mean())


@contextmanager
def previews(url: str, *, blurred: bool = True) -> Iterator[Previews]:
    config = load_config(None, {"publish.redis": url}, {})
    with Publisher.open(config.publish) as publisher, Previews(publisher, lambda: ["lobby"], blurred=blurred) as found:
        yield found


@contextmanager
def shown(found: Previews) -> Iterator[None]:
    """Show eight pictures a second to it; the detector misses the face in most of them, never for half a second."""
    ended = threading.Event()

    def show() -> None:
        seen = 0.0
        while not ended.wait(0.125):
            misses = time.monotonic() - seen < 0.3
            seen = seen if misses else time.monotonic()
            found.take("lobby", frame(), None if misses else bright_squares(frame()), ())

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_nothing_is_made_or_kept_where_nobody_asks(redis_url: str) -> None:
    image = frame()
    before = sys.getrefcount(image)
    with previews(redis_url) as found, connect(redis_url) as client:
        for _ in range(25):
            found.take("lobby", image, bright_squares(image), ())
            time.sleep(0.04)
        assert sys.getrefcount(image) == before
        assert client.keys("*preview*") == []


@pytest.mark.parametrize("blurred", [True, False])
def test_who_asks_is_shown_a_picture_that_is_gone_soon_after(redis_url: str, blurred: bool) -> None:
    with previews(redis_url, blurred=blurred) as found, connect(redis_url) as client:
        pictures: list[bytes] = []

        def look() -> bool:
            client.set(ASKED, 1, ex=3)
            pictures.extend(filter(None, [client.get(KEY)]))
            return len(set(pictures)) >= 1 and len(pictures) >= 30

        with shown(found):
            wait_for(look, "pictures")
            assert 0 < client.ttl(KEY) <= 3
            # The face is blurred in pictures, too, in which the detector missed it.
            assert all((stripes(picture) < 3) == blurred for picture in pictures)
            client.delete(ASKED)
            wait_for(lambda: client.get(KEY) is None, "the picture goes")
            time.sleep(1.5)
            assert client.get(KEY) is None


def test_a_frozen_redis_keeps_no_analyser_waiting(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path / "redis") as server, previews(server.url) as found:
        with connect(server.url) as client:
            client.set(ASKED, 1, ex=600)
        with shown(found):
            with connect(server.url) as client:
                wait_for(lambda: client.get(KEY) is not None, "a picture")
            facts = discover(server.folder)
            assert facts is not None
            os.kill(int(facts["server"]), signal.SIGSTOP)
            try:
                time.sleep(1.5)
                image, faces, began = frame(), bright_squares(frame()), time.perf_counter()
                for _ in range(100):
                    found.take("lobby", image, faces, ())
                assert time.perf_counter() - began < 30, "the frozen one answers nobody, ever"
            finally:
                os.kill(int(facts["server"]), signal.SIGCONT)
            with connect(server.url) as client:
                client.delete(KEY)
                wait_for(lambda: client.get(KEY) is not None, "it goes on")


def test_off_is_the_default_and_a_word(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("publish: {preview: off}\n", encoding="utf-8")
    assert load_config(file, {}, {}).publish.preview == Config().publish.preview == "off"
    with pytest.raises(ConfigError, match=r"publish\.preview"):
        load_config(None, {"publish.preview": "yes"}, {})


@contextmanager
def running(camera: str, url: str, model: Path, preview: str) -> Iterator[None]:
    """A real run of a camera."""
    settings: dict[str, Any] = {"model": str(model), "detector": "lbp", "fps": 4, "clip__seconds": 1}
    with streamfer.Session(**settings, publish__redis=url, publish__preview=preview) as session:
        run = threading.Thread(target=session.publish, args=([camera],))
        run.start()
        try:
            yield
        finally:
            wait_for(session.stop, "it has begun", LOADING_SECONDS)
            run.join()


def test_the_page_shows_a_camera_for_as_long_as_somebody_looks(
    page: Any, tiny_model: Path, redis_url: str, rtsp_server: Callable[..., Any], long_face_film: Path
) -> None:
    camera = rtsp_server("--file", str(long_face_film)).url()
    config = load_config(None, {"publish.redis": redis_url, "serve.address": "0"}, {})
    with (
        running(camera, redis_url, tiny_model, "blurred"),
        serving(config) as url,
        connect(redis_url) as client,
    ):
        page.goto(url)
        page.get_by_role("button", name="look at").click(timeout=LOADING_SECONDS * 1000)
        picture = page.locator("#look img")
        picture.wait_for()
        assert picture.evaluate("one => one.naturalWidth") == 240
        assert "faces blurred" in page.inner_text("#seen")
        assert len(client.keys("streamfer:preview:*")) == 1
        page.click("#away")
        assert page.is_hidden("#look")
        wait_for(lambda: client.keys("streamfer:*preview:*") == client.keys("streamfer:asked:*") == [], "it is gone")
    assert page.complaints == []


def test_a_run_that_shows_nothing_is_not_asked(redis_url: str) -> None:
    config = load_config(None, {"publish.redis": redis_url, "serve.address": "0"}, {})
    import httpx2

    with serving(config) as url, connect(redis_url) as client:
        assert httpx2.get(f"{url}/preview/nobody%20knows", trust_env=False).status_code == 204
        assert client.keys("*") == []
