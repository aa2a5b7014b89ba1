"""The live page in a real browser, fed by a real Redis."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from command_line import discover, wait_for
from record_examples import PRODUCER, captioned, labelled, span
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamfer.addresses import is_loopback
from streamfer.config import Config, load_config
from streamfer.errors import ConfigError
from streamfer.publish import Publisher, connect
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.records import Gap, Record
from streamfer.serve.dashboard import serving
from streamfer.serve.feed import Feed, said_of
from streamfer.serve.server import Server, listening_url

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


def config(url: str, **settings: object) -> Config:
    values = {
        "publish.redis": url,
        "serve.address": "0",
        **{f"serve.{name}": value for name, value in settings.items()},
    }
    return load_config(None, values, {})


def clip(at: int, source: str = "lobby", track: int = 1, **face: Any) -> Record:
    document = labelled(
        span(start_pts=at, end_pts=at + 1), track=track, track_id=f"0-{track}",
        action_units={"AU12": 0.4}, action_units_peak={"AU12": 0.8}, **face,
    )  # fmt: skip
    return Record.of(document, source_id=source)


@pytest.fixture
def publish(redis_url: str) -> Iterator[Callable[..., None]]:
    with Publisher.open(config(redis_url).publish) as publisher:

        def put(*records: Record) -> None:
            for record in records:
                publisher.publish(record)

        yield put


def test_the_page_shows_what_comes(page: Any, publish: Callable[..., None], redis_url: str) -> None:
    publish(clip(1), clip(1, "yard", 2, emotions={"happiness": 0.4, "neutral": 0.35}, top=None, reason="uncertain"))
    with connect(redis_url) as client:
        client.hset("streamfer:status:lobby", mapping={"state": "online", "lag": "0.4", "dropped": "7"})
        away = {"state": "backoff", "reason": "no route to host", "lag": "0.4", "preview": "plain"}
        client.hset("streamfer:status:yard", mapping=away)
    with serving(config(redis_url)) as url:
        page.goto(url)
        page.get_by_text("lobby · person 1").wait_for()
        assert "happiness 70 %" in page.inner_text("#people")
        assert "unsure (uncertain; best 40 %)" in page.inner_text("#people")
        assert "AU12 lip corner puller 0.80" in page.inner_text("#people")
        page.locator("#sources td.bad", has_text="backoff: no route to host").wait_for()
        rows = [row.split("\t")[:6] for row in page.inner_text("#sources tbody").splitlines()]
        assert rows[0][:2] + rows[0][2:5:2] == ["lobby", "online", "0.4 s", "7"]
        # Of a camera that is away there is no lag, and no picture to look at.
        assert rows[1][2] == ""
        assert page.get_by_role("button", name="look at").count() == 0
        said = clip(2, top="neutral", emotions={"happiness": 0.1, "neutral": 0.9})
        publish(said, captioned(said, "The lip corners are pulled up."))
        page.locator("#people", has_text="neutral 90 %").wait_for()
        page.locator("#captions", has_text="The lip corners are pulled up.").wait_for()
        page.fill("#filter", "yard")
        wait_for(lambda: page.locator(".person").count() == 1, "one person")
        page.fill("#filter", "")
        page.locator(".person", has_text="lobby").click()
        assert page.inner_text("#detail-title") == "lobby · person 1"
        wait_for(lambda: page.locator("#detail canvas").count() == 2, "two charts")
        page.keyboard.press("Escape")
        assert not page.is_visible("#detail")
        assert page.is_hidden("#add")
    assert page.complaints == [] or all("ERR_" in text for text in page.complaints)


def test_text_is_never_markup(page: Any, publish: Callable[..., None], redis_url: str) -> None:
    label = clip(1, f"door {HOSTILE}"[:120])
    publish(label, captioned(label, HOSTILE + "x" * 100_000))
    with serving(config(redis_url)) as url:
        page.goto(url)
        page.locator("#captions", has_text="<img src=x onerror=").wait_for()
        assert page.title() == "streamfer"
        assert page.locator("main img, main script").count() == 0
        assert page.locator("#captions li").count() == 1
        assert len(page.inner_text("#captions")) < 3_000
    assert [text for text in page.complaints if "ERR_" not in text] == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious(
    browser: Any, publish: Callable[..., None], redis_url: str, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    label = clip(1)
    publish(label, captioned(label, "The lip corners are pulled up."))
    with connect(redis_url) as client:
        client.hset("streamfer:status:lobby", mapping={"state": "online", "lag": "0.4"})
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    with serving(config(redis_url)) as url:
        page.goto(url)
        page.locator(".person").first.click(timeout=60_000)
        page.locator("#sources td").first.wait_for(timeout=60_000)
        found = axe.Axe().run(page).response["violations"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_it_recovers_when_redis_comes_back(page: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFER_REDIS_FOLDER", str(tmp_path / "redis"))
    server = EmbeddedRedis.start()
    settings = config(server.url)
    with Publisher.open(settings.publish) as publisher, serving(settings) as url:
        page.goto(url)
        publisher.publish(clip(1))
        page.get_by_text("lobby · person 1").wait_for()
        with connect(server.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub")
        publisher.publish(clip(2, "yard"))
        page.get_by_text("yard · person 1").wait_for()
        page.locator("#standing", has_text="following").wait_for()
    server.close()


def test_a_look_back_shows_what_redis_holds(page: Any, publish: Callable[..., None], redis_url: str) -> None:
    publish(clip(1))
    with serving(config(redis_url)) as url:
        page.goto(url)
        page.get_by_text("lobby · person 1").wait_for()
        moment = page.evaluate(
            "new Date(Date.now() + 2000 - new Date().getTimezoneOffset() * 60000).toISOString().slice(0, 19)"
        )
        page.fill("#until", moment)
        page.dispatch_event("#until", "change")
        page.locator("#standing", has_text="looking back").wait_for()
        page.get_by_text("lobby · person 1").wait_for()
        page.click("#now")
        page.locator("#standing", has_text="following").wait_for()


def test_without_a_token_this_machine_looks_and_nobody_changes_anything(redis_url: str) -> None:
    with serving(config(redis_url)) as url, httpx.Client(base_url=url) as client:
        answer = client.get("/")
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        # A name that somebody else's server resolves to this machine.
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421
        assert client.post("/sources", json={"url": "x"}).status_code == 403
        assert client.get("/history?from=a&to=b").status_code == 422
    with (
        pytest.raises(ConfigError, match=r"serve\.address: .* set serve\.token"),
        serving(config(redis_url, address="0.0.0.0:0")),
    ):
        pass


def test_changes_go_to_the_run_with_its_token_and_past_any_proxy(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    asked: list[tuple[str, str, str | None, bytes]] = []

    async def answer(request: Request) -> Response:
        asked.append((request.method, request.url.path, request.headers.get("authorization"), await request.body()))
        return JSONResponse({"sources": [{"id": "lobby", "paused": True}]}, 201)

    routes = [Route("/v1/{path:path}", answer, methods=["GET", "POST", "PATCH", "DELETE"])]
    with (
        Server("0", routes) as run,
        serving(config(redis_url, control=run.url, control_token="secret")) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        assert client.get("/about").json()["control"] is True
        assert client.post("/sources", json={"url": "x"}).status_code == 201
        assert client.request("DELETE", "/sources/a/b", json=None).status_code == 415
        assert client.patch("/sources/a/b", json={"paused": True}).status_code == 201
        wait_for(lambda: ("GET", "/v1/sources", "Bearer secret", b"") in asked, "what is paused")
    changes = [one for one in asked if one[0] != "GET"]
    assert changes == [
        ("POST", "/v1/sources", "Bearer secret", b'{"url":"x"}'),
        ("PATCH", "/v1/sources/a/b", "Bearer secret", b'{"paused":true}'),
    ]


def test_a_token_is_asked_for(redis_url: str) -> None:
    with serving(config(redis_url, token="open sesame")) as url, httpx.Client(base_url=url) as client:
        assert client.get("/").status_code == 401
        assert client.get("/events").status_code == 401
        wrong = client.post("/login", data={"token": "wrong"})
        assert wrong.status_code == 401
        assert "not the token" in wrong.text
        assert client.get("/login").status_code == 200
        assert client.post("/login", data={"token": "open sesame"}).status_code == 303
        assert client.get("/about").json()["control"] is False
        assert "sesame" not in str(client.cookies.jar)


def test_a_page_that_reads_too_slowly_gets_everything_anew(
    publish: Callable[..., None], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamfer.serve.feed._BATCHES", 2)
    with Feed(config(redis_url).publish, redis_url) as feed:

        def sent(record: Record) -> bool:
            return any(record.id in text for text in feed.everything()[1]) and not feed._fresh

        for record in map(clip, range(5)):
            publish(record)
            wait_for(functools.partial(sent, record), "the record, in a batch of its own")
        assert feed.after(0) is None
        number, texts = feed.everything()
        assert feed.after(number) == []
        messages = [message for text in texts for message in json.loads(text)]
    assert len({one["id"] for one in messages if one["kind"] == "clip"}) == 5


def test_a_hundred_thousand_entries_of_history_are_a_bounded_answer(redis_url: str) -> None:
    fields = dict(clip(1).numbered(1).to_fields())
    with connect(redis_url) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(20_000):
            pipe.xadd("streamfer:{0}:clips", {**fields, "ce_sequence": f"{number:020}"})
        pipe.xadd("streamfer:{0}:clips", {"foreign": "entry"})
        pipe.execute()
    with Feed(config(redis_url).publish, redis_url) as feed:
        found, more = feed.history(time.time() - 600, time.time())
    assert (len(found), more) == (5_000, True)


def test_records_that_no_page_shows_are_left_out() -> None:
    gap = Gap(
        cause="queue_full", unit="frames", count=2, epoch=0, epoch_key="f" * 64, start_time=1.0, end_time=1.25,
        time_origin="file", reason="busy", producer=PRODUCER,
    )  # fmt: skip
    assert said_of(Record.of(gap, source_id="hall")) == []
    (said,) = said_of(dataclasses.replace(clip(1), recordedtime=datetime(2026, 1, 1, tzinfo=UTC)))
    assert (said["t"], said["units"], said["label"]) == (1767225600.0, {"AU12": 0.8}, "happiness")
    own = ("127.0.0.1:8080", "localhost:80", "[::1]:80")
    others = ("10.0.0.1:80", "[2001:db8::1]:80", "evil.example", "127.evil.example", "")
    assert all(is_loopback(f"http://{host}") for host in own)
    assert not any(is_loopback(f"http://{host}") for host in others)
    assert all(is_loopback(listening_url(address, "serve.address")) for address in ("8080", *own))
    assert not is_loopback(listening_url("10.0.0.1:80", "serve.address"))


def reader(url: str, *, room: int | None = None) -> socket.socket:
    """Open the stream of events, and read nothing of it yet; ``room`` bytes wait here at most."""
    host, _, port = url.removeprefix("http://").partition(":")
    line = socket.socket()
    if room:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    line.settimeout(60)
    line.connect((host, int(port)))
    line.sendall(f"GET /events HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    return line


def read_until(line: socket.socket, word: bytes) -> None:
    """Read until a word comes."""
    tail = b""
    while word not in tail:
        more = line.recv(1 << 20)
        assert more, "the line was closed"
        tail = tail[-len(word) :] + more


def test_a_hundred_tabs_share_what_there_is(publish: Callable[..., None], redis_url: str) -> None:
    publish(*(clip(at, track=at % 8 + 1) for at in range(2000)))
    with serving(config(redis_url)) as url, connect(redis_url) as client, contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(reader(url)))
        read_until(first, b'"0-8"')
        memory = psutil.Process().memory_info().rss
        tabs = [stack.enter_context(contextlib.closing(reader(url))) for _ in range(100)]
        for tab in tabs:
            read_until(tab, b'"0-8"')
        publish(clip(1, "yard"))
        for tab in tabs:
            read_until(tab, b'"yard"')
        # The publisher's, this one, the subscriber's and the one that reads states: none of a tab.
        assert len(client.client_list()) <= 4
        assert psutil.Process().memory_info().rss - memory < 100e6


def test_who_reads_nothing_is_let_go(
    publish: Callable[..., None], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamfer.serve.server._STUCK_SECONDS", 3.0)
    publish(*(clip(at, track=at % 8 + 1) for at in range(4000)))
    with serving(config(redis_url)) as url, contextlib.closing(reader(url)) as healthy:
        # It goes on reading meanwhile, until the last record.
        reading = threading.Thread(target=read_until, args=(healthy, b'"yard"'), daemon=True)
        reading.start()
        port = int(url.rpartition(":")[2])

        def served() -> int:
            mine = psutil.Process().net_connections("tcp")
            return len([one for one in mine if one.laddr.port == port and one.status == "ESTABLISHED"])

        with contextlib.closing(reader(url, room=4096)):
            wait_for(lambda: served() == 2, "both are served")
            wait_for(lambda: served() == 1, "the one that reads nothing is let go")
        publish(clip(1, "yard"))
        wait_for(lambda: not reading.is_alive(), "the other one is told")


def test_a_slow_or_absent_redis_is_said_and_nothing_hangs(page: Any, tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path / "redis") as server, serving(config(server.url)) as url:
        page.goto(url)
        page.locator("#standing", has_text="following").wait_for()
        facts = discover(server.folder)
        assert facts is not None
        os.kill(int(facts["server"]), signal.SIGSTOP)
        try:
            page.locator("#standing.bad", has_text="does not answer").wait_for()
            answer = httpx.get(f"{url}/history?from=1&to=2", timeout=30, trust_env=False)
            assert (answer.status_code, "does not answer" in answer.json()["error"]) == (503, True)
        finally:
            os.kill(int(facts["server"]), signal.SIGCONT)
        page.locator("#standing.good", has_text="following").wait_for()
    with serving(config("redis://127.0.0.1:9/0")) as url:
        page.goto(url)
        page.locator("#standing.bad", has_text="cannot be reached").wait_for()


def test_foreign_and_malformed_entries_are_passed_over(page: Any, publish: Callable[..., None], redis_url: str) -> None:
    fields = {name: str(value) for name, value in clip(1).numbered(1).to_fields().items()}
    with connect(redis_url) as client:
        for odd in (
            {"foreign": "entry"},
            {**fields, "data": "{"},
            {**fields, "data": "[]"},
            {**fields, "ce_type": "streamfer.clip.labelled.v99"},
            {**fields, "ce_sequence": "many", "ce_id": "\xff" * 9000},
            {b"\xff\xfe": b"\x00\xff" * 50_000},
        ):
            client.xadd("streamfer:{0}:clips", odd)
        client.hset("streamfer:status:odd", mapping={b"state": b"\xff<b>", b"lag": b"soon"})
        client.set("streamfer:status:no-hash", "text")
    publish(clip(2, "yard"))
    with serving(config(redis_url)) as url:
        page.goto(url)
        page.get_by_text("yard · person 1").wait_for()
        page.locator("#sources td", has_text="odd").first.wait_for()
        assert page.locator("#sources b").count() == 0
        found = httpx.get(f"{url}/history?from=1&to={time.time() + 9}", trust_env=False).json()
        assert [one["source"] for one in found["messages"] if one["kind"] == "clip"][-1] == "yard"
        page.locator("#standing.good", has_text="following").wait_for()
    assert page.complaints == []
