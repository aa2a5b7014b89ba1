"""A run as its operator sees it: liveness, readiness, numbers, and sources that come and go over HTTP."""

from __future__ import annotations

import gzip
import http.server
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from command_line import streamfer, streamfer_while, wait_for, when
from free_ports import free_port
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from published import everything
from record_examples import examples
from test_run_faults import QUICK, START_SECONDS, configured, states

from streamfer.api.tracing import Tracer
from streamfer.publish import EmbeddedRedis, connect
from streamfer.records import ClipLabelled, SourceStateChanged

TOKEN = "a token of a test"
DARK = "rtsp://127.0.0.1:9/x"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis.start(tmp_path / "redis") as server:
        yield server


class Operator:
    """Asks a run over HTTP."""

    def __init__(self, port: int, token: str | None = TOKEN) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers=headers,
            timeout=30,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    def ask(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        answer = self._client.request(method, path, json=body or None)
        return answer.status_code, answer.json()

    def send(self, content: bytes, **headers: str) -> tuple[int, str]:
        answer = self._client.post("/v1/sources", content=content, headers=headers)
        return answer.status_code, answer.text

    def code(self, path: str) -> int:
        try:
            return self._client.get(path).status_code
        except httpx2.TransportError:
            return 0

    def metrics(self) -> dict[str, float]:
        lines = [line for line in self._client.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def sources(self) -> dict[str, dict[str, Any]]:
        code, found = self.ask("GET", "/v1/sources")
        assert code == 200, found
        return {source["id"]: source for source in found["sources"]}


def test_sources_come_and_go_and_the_numbers_tell(
    tiny_model: Path,
    server: EmbeddedRedis,
    tmp_path: Path,
    rtsp_server: Callable[..., Any],
    long_face_film: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real camera beside dark ones: added, paused, changed, removed over HTTP, none of the others disturbed."""
    camera, port = rtsp_server("--file", str(long_face_film)), free_port()
    monkeypatch.setenv("TOKEN_OF_TEST", TOKEN)
    more = (
        f"publish: {{redis: '{server.url}'}}\nlive: {{backoff_first: 0.1, backoff_cap: 0.5}}\n"
        f"health: {{address: {port}, token: '${{TOKEN_OF_TEST}}'}}"
    )
    config = configured(tmp_path / "run.yaml", more=more)
    config.write_text(config.read_text().replace("sources:\n", "sources: []"))
    operator = Operator(port)

    def operate() -> None:
        wait_for(lambda: operator.code("/livez") == 200, "it lives before it is ready", START_SECONDS)
        wait_for(lambda: operator.code("/readyz") == 200, "it is ready without a source", START_SECONDS)
        assert operator.sources() == {}
        assert operator.ask("POST", "/v1/sources", url=camera.url(), id="hall")[0] == 201
        assert operator.ask("POST", "/v1/sources", url=DARK, id="dark") == (201, {"added": ["dark"]})
        wait_for(lambda: operator.sources()["hall"]["state"] == "online", "the camera is online", START_SECONDS)
        wait_for(lambda: "backoff" in states(server.url, "dark"), "the dark one is tried", START_SECONDS)
        code, refused = operator.ask("POST", "/v1/sources", url=DARK, id="hall")
        assert (code, "used already" in refused["error"]) == (422, True)
        analysed = 'streamfer_frames_total{source="hall",stage="analysed"}'
        wait_for(lambda: operator.metrics().get(analysed, 0) > 4, "frames", START_SECONDS)
        labelled = 'streamfer_clip_latency_seconds_count{source="hall"}'
        wait_for(lambda: operator.metrics().get(labelled, 0) > 0, "a label", START_SECONDS)
        numbers = operator.metrics()
        assert numbers['streamfer_source_up{source="hall"}'] == 1
        assert numbers['streamfer_source_up{source="dark"}'] == 0
        assert 0 <= numbers['streamfer_source_lag_seconds{source="hall"}'] < 30
        assert numbers['streamfer_frames_total{source="hall",stage="decoded"}'] > numbers[analysed]
        assert numbers['streamfer_reconnects_total{reason="no_picture",source="dark"}'] > 0
        assert numbers["streamfer_published_total"] > 3
        assert numbers["streamfer_batch_size_count"] > 0
        assert numbers["process_resident_memory_bytes"] > 1e7
        assert "127.0.0.1" not in str(numbers), "series are named by ids"
        assert operator.ask("PATCH", "/v1/sources/hall", paused=True)[0] == 200
        wait_for(lambda: states(server.url, "hall")[-1:] == ["ended"], "paused, a subscriber sees its end")
        with closing(connect(server.url)) as client:
            lag = partial(client.hget, "streamfer:status:hall", "lag")
            wait_for(lambda: float(lag() or -1) >= 0, "its status says how late it was")
        read = [record.data.latency_ms for record in everything(server.url) if isinstance(record.data, ClipLabelled)]
        assert min(-1.0 if one.lag is None else one.lag for one in read) >= 0, "and so does each record"
        assert operator.sources()["hall"]["paused"] is True
        assert "ended" not in states(server.url, "dark")
        assert operator.ask("PATCH", "/v1/sources/hall", paused=False)[0] == 200
        wait_for(lambda: states(server.url, "hall")[-1:] == ["online"], "it goes on", START_SECONDS)
        assert operator.ask("PUT", "/v1/sources/dark", url=f"{DARK}y")[0] == 200
        wait_for(lambda: "ended" in states(server.url, "dark"), "the old one ends")
        wait_for(lambda: states(server.url, "dark")[-1] == "backoff", "another address is tried")
        for name in ("dark", "hall"):
            assert operator.ask("DELETE", f"/v1/sources/{name}") == (200, {"removed": name})
        wait_for(lambda: states(server.url, "dark")[-1] == states(server.url, "hall")[-1] == "ended", "all have left")
        assert operator.ask("DELETE", "/v1/sources/dark")[0] == 404
        assert (operator.sources(), operator.code("/readyz")) == ({}, 200)

    done = streamfer_while(operate, "run", "-q", "-c", config, "--model", tiny_model, *QUICK)
    assert done.code == 0
    assert TOKEN not in done.err + done.out


def test_who_has_no_token_changes_nothing(tiny_model: Path, server: EmbeddedRedis, tmp_path: Path) -> None:
    port = free_port()
    source = "{url: 'rtsp://127.0.0.1:9/a', id: lobby}"
    publish = f"publish: {{redis: '{server.url}'}}\nlive: {{backoff_first: 0.1, backoff_cap: 0.5}}\n"
    config = configured(
        tmp_path / "run.yaml", source, more=f"{publish}health: {{address: {port}, token: secret-enough}}"
    )
    words = ("run", "-q", "-c", config, "--model", tiny_model, *QUICK)
    operator = Operator(port, "secret-enough")

    def try_all() -> None:
        wait_for(lambda: "backoff" in states(server.url, "lobby"), "it runs", START_SECONDS)
        for stranger in (Operator(port, None), Operator(port, "secret-enougH"), Operator(port, "secret-enoug")):
            for method, path in (
                ("GET", ""),
                ("POST", ""),
                ("DELETE", "/lobby"),
                ("PATCH", "/lobby"),
                ("PUT", "/lobby"),
            ):
                code, answer = stranger.ask(method, f"/v1/sources{path}", url=DARK)
                assert code == 401, answer
        assert operator.send(b"{}", authorization="Basic secret-enough")[0] == 401
        assert operator.sources().keys() == {"lobby"}
        for content in (b'{"url": ', b"\xff", b"[1]", b""):
            code, text = operator.send(content)
            assert (code, "no JSON object" in text) == (422, True)
        code, text = operator.send(b'{"url": "rtsp://h/x", "rtsp://me:hunter2@h/x": 1}')
        assert (code, "unknown setting" in text, "hunter2" in text) == (422, True, False)
        for body in ({"url": "rtsp://h/${HOME}"}, {"url": "gopher://x"}, {"url": DARK, "colour": "red"}, {"id": "x"}):
            code, answer = operator.ask("POST", "/v1/sources", **body)
            assert (code, list(answer)) == (422, ["error"])
        assert operator.ask("PATCH", "/v1/sources/lobby", paused="yes")[0] == 422
        assert operator.ask("PUT", "/v1/sources/lobby", url=DARK, id="hall")[0] == 422
        # Nothing moves, and it is known why: a restart would not help.
        assert operator.code("/livez") == 200

    assert streamfer_while(try_all, *words).code == 0
    configured(tmp_path / "run.yaml", source, more=f"{publish}health: {{address: {port}}}")

    def try_without() -> None:
        operator = Operator(port, "x")
        # It answers before its models are loaded, and no later does it to who shows no token.
        wait_for(lambda: operator.code("/livez") == 200, "it lives", START_SECONDS)
        code, answer = operator.ask("DELETE", "/v1/sources/lobby")
        assert (code, "health.token" in answer["error"]) == (403, True)

    assert streamfer_while(try_without, *words).code == 0


def test_a_check_says_what_each_source_is_and_how_it_can_be_read(
    tmp_path: Path, rtsp_server: Callable[..., Any], face_film: Path
) -> None:
    camera = rtsp_server("--user", "me", "--password", "hunter2")
    hall = camera.url(credentials="me:hunter2")
    config = configured(tmp_path / "run.yaml", f"{{url: '{face_film}', id: film}}", f"{{url: '{hall}', id: hall}}")
    done = streamfer("check", "-c", config, "--seconds", "0.5")
    film, over_tcp, over_udp = done.out.splitlines()
    assert film.startswith("film: mpeg4 240x240, 10.0 fps (states 10), 3.0 s long, clock file; first picture after ")
    for line, transport in ((over_tcp, "tcp"), (over_udp, "udp")):
        assert re.match(rf"hall over {transport}: h264 160x120, .*, live, clock \w+; first picture ", line)
    assert (done.code, done.err) == (0, "")
    refused = streamfer("check", hall.replace("hunter2", "hunter3"))
    assert (refused.code, refused.out, len(refused.complaints)) == (2, "", 1), "not asked a second time"
    assert "refused the credentials" in refused.complaints[0]
    assert "hunter" not in done.out + refused.err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("x", "health.address: nothing can listen there"),
        ("a b:1", "health.address: "),
        ("1.2.3.4:99", "nothing can listen there (Cannot assign"),
    ],
)
def test_where_nothing_can_listen_is_said_at_once(address: str, said: str, tmp_path: Path) -> None:
    done = streamfer("run", DARK, "--health", address)
    assert done.code == 2
    assert said in done.complaints[0]


def test_a_token_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    done = streamfer("run", DARK, "--health", str(free_port()), "--set", "health.token=${NOT_SET_ANYWHERE}")
    assert (done.code, "NOT_SET_ANYWHERE" in done.complaints[0]) == (2, True)


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does."""

    spans: list[Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        request = ExportTraceServiceRequest.FromString(body)
        assert self.path == "/v1/traces"
        self.spans += [one for group in request.resource_spans for scope in group.scope_spans for one in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def test_clips_and_sources_are_spans_and_records_say_which(
    tiny_model: Path, server: EmbeddedRedis, face_film: Path
) -> None:
    Collector.spans = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        traces = f"health.traces=http://127.0.0.1:{collector.server_port}"
        words = ("run", "-q", face_film, "--redis", server.url, "--model", tiny_model, *QUICK, "--set", traces)
        assert streamfer(*words).code == 0
        collector.shutdown()
    (source,) = [span for span in Collector.spans if span.name == "source"]
    clips = {place(span): span for span in Collector.spans if span.name == "clip"}
    assert [event.name for event in source.events] == ["online", "ended"]
    records = everything(server.url)
    labelled = [record for record in records if isinstance(record.data, ClipLabelled)]
    assert {str(record.traceparent)[3:-3] for record in labelled} == clips.keys()
    assert len(labelled) == len(clips) > 2
    assert {link.span_id for span in clips.values() for link in span.links} == {source.span_id}
    assert all(0 < span.end_time_unix_nano - span.start_time_unix_nano < 120e9 for span in clips.values())
    told = {str(record.traceparent) for record in records if isinstance(record.data, SourceStateChanged)}
    assert {(text[:2], text[3:-3], int(text[-2:], 16) & 1) for text in told} == {("00", place(source), 1)}


def place(span: Any) -> str:
    return f"{span.trace_id.hex()}-{span.span_id.hex()}"


def test_a_collector_that_is_away_delays_nothing(tiny_model: Path, server: EmbeddedRedis, face_film: Path) -> None:
    words = ("run", "-q", face_film, "--redis", server.url, "--model", tiny_model, *QUICK)
    ended: list[float] = []

    def all_is_published() -> bool:
        return "ended" in states(server.url, face_film.name)

    with when(all_is_published, lambda: ended.append(time.monotonic())):
        assert streamfer(*words, "--set", "health.traces=http://127.0.0.1:9").code == 0
        over = time.monotonic()
    assert not ended or over - ended[0] < 30
    assert all(record.traceparent for record in everything(server.url))


def test_the_end_waits_two_seconds_for_a_collector_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracer = Tracer(f"http://127.0.0.1:{silent.getsockname()[1]}", "here")
        assert tracer.trace(examples()["clip.labelled.v1"]).traceparent
        began = time.monotonic()
        tracer.close()
        assert time.monotonic() - began < 9, "and what a busy machine adds"


def test_nothing_of_it_is_imported_unless_it_is_asked_for(
    tiny_model: Path, server: EmbeddedRedis, face_film: Path
) -> None:
    # What redis-py imports of it by itself is not ours to leave out.
    code = (
        "import sys\nfrom streamfer.cli import main\ntry: main()\n"
        "finally: print([name for name in sys.modules if name.startswith('opentelemetry.exporter')])"
    )
    words = ["run", "-q", str(face_film), "--redis", server.url, "--model", str(tiny_model), *QUICK]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.splitlines()[-1] == "[]"
    assert {record.traceparent for record in everything(server.url)} == {None}


@pytest.mark.parametrize("address", ["localhost:4318", "ftp://h", "http://me:hunter2@h:4318", "http://"])
def test_an_address_of_traces_that_is_none_is_said_at_once(address: str) -> None:
    done = streamfer("run", DARK, "--set", f"health.traces={address}")
    assert (done.code, "health.traces: write http://HOST:4318" in done.complaints[0]) == (2, True)
    assert "hunter2" not in done.err
