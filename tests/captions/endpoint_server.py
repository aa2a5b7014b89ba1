"""An OpenAI-compatible server on a free port of this machine, which answers as a test wants it to.

PYTEST_DONT_REWRITE: nothing is asserted here.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the test server needs starlette and uvicorn")
uvicorn = pytest.importorskip("uvicorn")

from starlette.applications import Starlette  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

from streamfer.captions.chat import KEY_VARIABLE  # noqa: E402
from streamfer.captions.endpoint import EndpointWriter  # noqa: E402
from streamfer.captions.measurements import Measurements, Unit  # noqa: E402
from streamfer.captions.protocol import Caption, CaptionError, CaptionRequest  # noqa: E402
from streamfer.config import CaptionsConfig  # noqa: E402

GOOD = "The face shows happiness. The lip corners are pulled up and the cheeks are raised."
SMILE = Measurements("happiness", 0.9, (Unit(6, 0.8, 0.3), Unit(12, 0.9, 0.3, 0.5, 1.0, 1.5)), 0.0, 2.0)
FACES = np.stack([np.full((32, 32, 3), grey, np.uint8) for grey in (20, 220)])
Reply = Callable[[dict[str, Any]], Response]


def chat(text: str | None, **message: Any) -> JSONResponse:
    """What a server answers."""
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    return JSONResponse({"choices": [{"message": {"content": text, **message}}], "usage": usage})


class Server:
    """An app on a free port of this machine; ``replies`` are given in turn, the last one for ever."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [lambda _: chat(json.dumps({"caption": GOOD}))]
        self.models: Any = {"data": [{"id": "seer"}, {"id": "other"}]}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.delay = 0.0
        #: Requests are answered so many together.
        self.company = 1
        app = Starlette(
            routes=[
                Route("/v1/models", self._list),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    async def _list(self, _: Request) -> Response:
        return self.models if isinstance(self.models, Response) else JSONResponse(self.models)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.keys.append(request.headers.get("authorization"))
        self.asked.append(body)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        number = len(self.asked)
        while len(self.asked) < -(-number // self.company) * self.company:
            await asyncio.sleep(0.01)
        await asyncio.sleep(self.delay)
        return reply(body)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    for name in (KEY_VARIABLE, "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    running.replies = [lambda _: chat(json.dumps({"caption": GOOD}))]
    running.models = {"data": [{"id": "seer"}, {"id": "other"}]}
    running.asked, running.keys, running.delay, running.company = [], [], 0.0, 1
    return running


def writer_of(server: Server, model: str = "seer", **settings: Any) -> EndpointWriter:
    return EndpointWriter(model, CaptionsConfig(**{"url": server.url, "timeout": 60, "attempts": 2, **settings}))


def write(server: Server, **settings: Any) -> Caption | CaptionError:
    writer = writer_of(server, **settings)
    (found,) = writer.write([CaptionRequest(SMILE, "id-1", "hall", FACES)])
    writer.close()
    return found
