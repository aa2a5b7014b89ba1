"""The small server: whoever asks too much, too slowly or under another name is refused, and others are answered."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

pytest.importorskip("uvicorn")

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from streamfer.serve import server as module
from streamfer.serve.server import Server


async def answer(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


def opened(server: Server, words: str) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    line = socket.create_connection((host, int(port)), timeout=60)
    line.sendall(words.encode())
    return line


def asked(server: Server, body: str = "", host: str = "localhost", length: int | None = None) -> str:
    """The status and the body of an answer."""
    size = len(body) if length is None else length
    words = f"POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n{body}"
    with opened(server, words) as line:
        found = b"".join(iter(lambda: line.recv(65536), b"")).decode()
    return f"{found[9:12]} {found.splitlines()[-1]}"


def test_who_asks_too_much_is_refused_and_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BODY_BYTES", 1000)
    monkeypatch.setattr(module, "_BODY_SECONDS", 0.2)
    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.5)
    monkeypatch.setattr(module, "_MOST_CONNECTIONS", 8)
    with Server("0", [Route("/", answer, methods=["POST"])]) as server:
        assert asked(server, "x" * 1000) == "200 1000"
        assert asked(server, "x" * 1001).startswith("413 ")
        assert asked(server, "x", length=9).startswith("408 ")
        assert asked(server, host="127.0.0.1:1") == "200 0"
        assert asked(server, host="evil.example").startswith("421 ")
        # Nobody is answered while so many say half a word, and all of them are let go soon.
        slow = [opened(server, "POST / HTTP/1.1\r\nHost: loc") for _ in range(8)]
        with opened(server, "") as late, contextlib.suppress(ConnectionResetError):
            assert late.recv(1) == b"", "let go at once"
        began = time.monotonic()
        for line in slow:
            while time.monotonic() < began + 60:
                try:
                    line.sendall(b"a")
                    time.sleep(0.05)
                except OSError:
                    break
            line.close()
        assert time.monotonic() < began + 60
        assert asked(server) == "200 0"
