"""What the tests of bridges share: a bridge as a process, a Mosquitto with who subscribes there, a receiver."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import getpass
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from email.message import Message as Headers
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from unittest import mock

import command_line
import pytest
import redis
from free_ports import free_port
from record_examples import labelled, span

from streamfer.records import Record

wait_for = functools.partial(command_line.wait_for, seconds=120.0)
CLIPS, CAPTIONS, DEAD = "streamfer:{0}:clips", "streamfer:{0}:captions", "streamfer:{0}:dead"


def clip(at: int, source: str = "lobby", **face: Any) -> Record:
    """A labelled clip of a person of its own."""
    document = labelled(span(start_pts=at, end_pts=at + 1), track=at, track_id=f"0-{at}", **face)
    return Record.of(document, source_id=source).numbered(at)


def pending(client: redis.Redis, stream: str = CLIPS) -> int:
    """Entries that the bridge's group has not acknowledged."""
    ((group),) = client.xinfo_groups(stream)
    unread = client.xrange(stream, min=f"({group['last-delivered-id'].decode()}")
    return int(group["pending"]) + len(unread)  # type: ignore[arg-type]  # a blocking client's answer


def _words(redis_url: str, words: tuple[str, ...]) -> list[str]:
    """The command that begins with the streams."""
    words = ("--redis", redis_url, "--since", "start", "--set", "bridge.retry=0.5", *words)
    return [*(["-v"] if "-v" in words else []), "bridge", *(word for word in words if word != "-v")]


class Program:
    """``streamfer bridge WORDS`` as a process of its own, from the start of the streams on."""

    def __init__(self, folder: Path, redis_url: str, *words: str, **environment: str) -> None:
        self._said = folder / "said.txt"
        command = [sys.executable, "-c", "from streamfer.cli import main; main()", *_words(redis_url, words)]
        with self._said.open("a") as said:
            self.process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=said, stdout=said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        return self._said.read_text()

    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def says(self, words: str, times: int = 1) -> None:
        """Wait until it says so."""
        wait_for(lambda: self.said.count(words) >= times or self.over(), f"{words} in {self.said}")
        assert self.said.count(words) >= times, self.said

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        return self.process.wait(timeout=90)

    def end(self) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


class Running(Program):
    """The same in a thread of this process, which saves a second: what a signal calls is called without one."""

    def __init__(self, redis_url: str, *words: str) -> None:
        self._err = io.StringIO()
        self._found: list[command_line.Finished] = []
        self._stop: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._run, args=[_words(redis_url, words)], name="bridge")
        self._thread.start()

    def _run(self, words: list[str]) -> None:
        loop_of = asyncio.SelectorEventLoop.add_signal_handler

        def keep(loop: asyncio.SelectorEventLoop, number: int, stop: Callable[[], object]) -> None:
            if threading.current_thread() is not self._thread:
                loop_of(loop, number, stop)
            elif number == signal.SIGTERM:
                self._stop.append(functools.partial(loop.call_soon_threadsafe, stop))

        with mock.patch.object(asyncio.SelectorEventLoop, "add_signal_handler", keep):
            self._found.append(command_line.streamfer(*words, err=self._err))

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def said(self) -> str:
        return self._err.getvalue()

    def over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> int:
        self._thread.join(90)
        assert self.over()
        return self._found[0].code

    def end(self) -> int:
        wait_for(lambda: self._stop or self.over(), "it can be told")
        if not self.over():
            # Its loop may close meanwhile.
            with contextlib.suppress(RuntimeError):
                self._stop[-1]()
        return self.wait()


class Mosquitto:
    """A broker on a port of its own, with no disk; it keeps its port over :meth:`kill` and :meth:`start`."""

    def __init__(self, folder: Path, *lines: str) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            pytest.skip("no mosquitto here")
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        if not any(line.startswith("password_file") for line in lines):
            lines = ("allow_anonymous true", *lines)
        # As root it would become another user, who may not read a test's files.
        lines = (f"user {getpass.getuser()}", f"listener {self.port} 127.0.0.1", "persistence false", *lines)
        self._file.write_text("\n".join(lines) + "\n")
        self._command, self._log = [program, "-c", str(self._file)], folder / "mosquitto.log"
        self.start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it (again) and wait until it listens."""
        with self._log.open("a") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log)
        wait_for(self._listens, f"mosquitto listens: {self._log.read_text()}")

    def _listens(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


class Watcher:
    """Subscribes to everything; ``got`` are topics with what was said, and whether it had been retained."""

    def __init__(self, broker: Mosquitto, **account: str) -> None:
        paho = pytest.importorskip("paho.mqtt.client")
        self.got: list[tuple[str, Any, bool]] = []
        self._ready = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        if account:
            self._client.username_pw_set(**account)
        self._client.on_message = self._heard
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.subscribe("#", qos=1)
        self._client.loop_start()
        assert self._ready.wait(90)

    def _heard(self, _client: Any, _data: Any, message: Any) -> None:
        text = message.payload.decode()
        said = text if message.topic.endswith("/available") else json.loads(text)
        self.got.append((message.topic, said, bool(message.retain)))

    def topics(self) -> list[str]:
        return [topic for topic, _, _ in self.got]

    def last(self, topic: str) -> Any:
        """What was said last on a topic; None where nothing was."""
        return next((said for found, said, _ in reversed(self.got) if found == topic), None)

    def people(self) -> set[int]:
        """Tracks that were labelled."""
        return {said["track"] for topic, said, _ in self.got if "/people/" in topic and topic.endswith("/label")}

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Receiver:
    """A webhook's receiver: answers as it is told, and keeps what it was sent.

    Attributes:
        answer: status and headers for a request's records; the server calls it.
        got: headers and records of every request, with the status that it was answered.
    """

    def __init__(self) -> None:
        self.answer: Callable[[list[Any]], tuple[int, dict[str, str]]] = lambda _: (204, {})
        self.got: list[tuple[Headers, bytes, int]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = receiver.answer(json.loads(body))
                receiver.got.append((self.headers, body, status))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def taken(self) -> list[str]:
        """Ids of the records that were taken, in order."""
        return [one["id"] for _, body, status in self.got if status == 204 for one in json.loads(body)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
