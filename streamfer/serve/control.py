"""``/v1/sources``: who has the token adds, changes, pauses and removes the sources of a run."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamfer.arguments import check_settings
from streamfer.config import SourceConfig
from streamfer.errors import ConfigError, SourceNotFoundError, UserError
from streamfer.redaction import redact_text
from streamfer.serve.board import Board
from streamfer.serve.server import read_token

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.api.running import Run

Answer = Callable[["Run", Request], Awaitable[dict[str, Any]]]
_TOLD = ("state", "reason", "attempt", "epoch", "since", "lag")


class Control:
    """Answers ``GET`` and ``POST`` on ``/v1/sources``, and ``PUT``, ``PATCH`` and ``DELETE`` on ``/v1/sources/ID``.

    Raises:
        ConfigError: the token is empty, or not where it is said to be.
    """

    def __init__(self, session: Session, board: Board) -> None:
        self._session = session
        self._board = board
        token = read_token("health.token", session.config.health.token)
        self._token = None if token is None else token.encode()
        every: dict[str, Answer] = {"GET": self._list, "POST": self._add}
        one: dict[str, Answer] = {"PUT": self._put, "PATCH": self._patch, "DELETE": self._remove}
        paths = {"/v1/sources": every, "/v1/sources/{source:path}": one}
        self.routes = [Route(path, self._guarded(answers), methods=list(answers)) for path, answers in paths.items()]

    def _guarded(self, answers: dict[str, Answer]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            run = self._session.run
            if self._token is None:
                return _refused(403, "there is no control without a token: set health.token")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
                return _refused(401, "send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
            if run is None or run.pipeline is None:
                return _refused(503, "the run has not begun yet, or is at its end", {"Retry-After": "5"})
            try:
                answer = answers["GET" if request.method == "HEAD" else request.method]
                return JSONResponse(await answer(run, request), 201 if request.method == "POST" else 200)
            except UserError as error:
                return _refused(404 if isinstance(error, SourceNotFoundError) else 422, str(error))

        return respond

    async def _list(self, run: Run, _: Request) -> dict[str, Any]:
        known = self._board.standings()
        found = []
        for name, spec in run.specs.items():
            facts = {fact: getattr(known.get(name), fact, None) for fact in _TOLD}
            found.append({"id": name, "kind": spec.kind, "paused": spec.paused, **facts})
        return {"sources": found}

    async def _add(self, run: Run, request: Request) -> dict[str, Any]:
        return {"added": await run_in_threadpool(run.add, await _source(request))}

    async def _put(self, run: Run, request: Request) -> dict[str, Any]:
        name = request.path_params["source"]
        await run_in_threadpool(run.change, name, await _source(request, id=name))
        return {"changed": name}

    async def _patch(self, run: Run, request: Request) -> dict[str, Any]:
        name, wanted = request.path_params["source"], await _object(request)
        if set(wanted) != {"paused"} or not isinstance(wanted["paused"], bool):
            raise ConfigError('send {"paused": true} or {"paused": false}; PUT takes another source')
        await run_in_threadpool(run.change, name, paused=wanted["paused"])
        return {"changed": name}

    async def _remove(self, run: Run, request: Request) -> dict[str, Any]:
        name = request.path_params["source"]
        await run_in_threadpool(run.remove, name)
        return {"removed": name}


async def _object(request: Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError('the request is no JSON object; send {"url": "rtsp://...", "id": "lobby"}')
    return found


async def _source(request: Request, **more: str) -> SourceConfig:
    found = more | await _object(request)
    # Else who has the token could have any file and variable of this machine sent wherever they like.
    if "${" in json.dumps(found):
        raise ConfigError("${...} is read from the configuration's file alone; send user and password themselves")
    return check_settings(SourceConfig, found)


def _refused(code: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": redact_text(" ".join(reason.split()))}, code, headers)
