"""``streamfer serve``: the live page, a subscriber like any other, and what it asks for."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from streamfer.addresses import is_loopback
from streamfer.captions.vocabulary import ACTION_UNITS
from streamfer.config import Config, ServeConfig
from streamfer.errors import ConfigError, PublishError
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.serve.feed import Feed
from streamfer.serve.server import Server, listening_url, read_token

PAGE = Path(__file__).with_name("page")
_COOKIE = "streamfer"
#: Unix seconds that a calendar can hold.
_LATEST = 1e11
_LONGEST_FORM = 4096
_READ_SECONDS = 0.25
#: Looks back that are read at once: each may be tens of megabytes.
_MOST_LOOKS = 2
_CONTROL_SECONDS = 15.0
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>streamfer</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="icon" href="static/icon.svg" type="image/svg+xml"><link rel="stylesheet" href="static/page.css">
<main class="login"><h1>streamfer</h1><p>This page asks for its token: the setting serve.token of who started it.</p>
<p class="bad" role="alert">{}</p><form method="post" action="login">
<label>Token <input name="token" type="password" required autofocus autocomplete="current-password"></label>
<button>look</button></form></main></html>"""
_WRONG = "That is not the token. A copied one may lack a letter, or have a blank too many."


@contextlib.contextmanager
def serving(config: Config) -> Iterator[str]:
    """Have the page for as long as the context lasts; its URL.

    Raises:
        ConfigError: the address is none or taken, or a token is missing.
        PublishError: there is no embedded server here.
    """
    with contextlib.ExitStack() as stack:
        where = config.publish.redis
        if where is None:
            where = stack.enter_context(EmbeddedRedis.start()).url
        control = Control(config.serve)
        feed = stack.enter_context(Feed(config.publish, where, control.paused))
        page = Dashboard(config.serve, feed, control)
        server = stack.enter_context(Server(config.serve.address, page.routes, page.middleware, "serve.address"))
        # Before the server ends, so that it need not break off what it tells.
        stack.callback(page.ended.set)
        yield server.url


class Dashboard:
    """The page's ``routes`` and ``middleware``; when ``ended`` is set, open pages are told no more.

    Raises:
        ConfigError: the token is empty or not where it is said to be, or it is missing and other machines could look.
    """

    def __init__(self, config: ServeConfig, feed: Feed, control: Control) -> None:
        self._feed, self._control = feed, control
        self.ended = threading.Event()
        self._looks = asyncio.Semaphore(_MOST_LOOKS)
        self._pictures: dict[str, asyncio.Task[bytes | None]] = {}
        self._token = read_token("serve.token", config.token)
        if not (self._token or is_loopback(listening_url(config.address, "serve.address"))):
            raise ConfigError(f"serve.address: {config.address} is open to other machines; set serve.token, too")
        # What a page was let in by: it says nothing of the token, and ends with this process.
        self._pass = secrets.token_urlsafe(32)
        self.routes = [
            Route("/", self._page),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/about", self._about),
            Route("/events", self._events),
            Route("/history", self._history),
            Route("/preview/{source:path}", self._preview),
            Route("/sources", control.forward, methods=["POST"]),
            Route("/sources/{source:path}", control.forward, methods=["PATCH", "DELETE"]),
            Mount("/static", StaticFiles(directory=PAGE)),
        ]
        self.middleware = [Middleware(Guard, passed=self._passed)]

    def _passed(self, asked: HTTPConnection) -> bool:
        if self._token is None or asked.url.path == "/login" or asked.url.path.startswith("/static/"):
            return True
        bearer = asked.headers.get("authorization", "").removeprefix("Bearer ").strip()
        return _same(asked.cookies.get(_COOKIE, ""), self._pass) or _same(bearer, self._token)

    async def _page(self, _: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def _login(self, request: Request) -> Response:
        if request.method == "GET":
            return HTMLResponse(_LOGIN.format(""))
        form = parse_qs((await request.body())[:_LONGEST_FORM].decode("utf-8", "replace"))
        if self._token is not None and not _same(form.get("token", [""])[0], self._token):
            await asyncio.sleep(1.0)
            return HTMLResponse(_LOGIN.format(_WRONG), 401)
        back = RedirectResponse("./", 303)
        back.set_cookie(_COOKIE, self._pass, httponly=True, samesite="strict")
        return back

    async def _about(self, _: Request) -> Response:
        units = {f"AU{number:02}": unit.name for number, unit in ACTION_UNITS.items()}
        return JSONResponse({"control": self._control.possible, "units": units})

    async def _events(self, request: Request) -> Response:
        return EventSourceResponse(self._told(request), ping=15)

    async def _told(self, request: Request) -> AsyncIterator[dict[str, str]]:
        number, texts = self._feed.everything()
        for text in texts:
            yield {"data": text}
        while not (self.ended.is_set() or await request.is_disconnected()):
            batches = self._feed.after(number)
            if batches is None:
                # It read too slowly; the browser opens the connection again and gets everything.
                return
            for number, text in batches:  # noqa: B007  # the last one's number stays
                yield {"data": text}
            await asyncio.sleep(_READ_SECONDS)

    async def _history(self, request: Request) -> Response:
        try:
            begin, end = (float(request.query_params[name]) for name in ("from", "to"))
        except (KeyError, ValueError):
            begin, end = 1.0, 0.0
        if not 0 <= begin < end < _LATEST:
            return JSONResponse({"error": "give from and to as seconds since 1970"}, 422)
        try:
            async with self._looks:
                messages, more = await run_in_threadpool(self._feed.history, begin, end)
        except PublishError as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse({"messages": messages, "more": more})

    async def _preview(self, request: Request) -> Response:
        """Answer with the newest picture; nothing where there is none. However many ask, Redis is asked once."""
        source = request.path_params["source"]
        if (asked := self._pictures.get(source)) is None:
            asked = asyncio.create_task(run_in_threadpool(self._feed.preview, source))
            self._pictures[source] = asked
            asked.add_done_callback(lambda _: self._pictures.pop(source, None))
        try:
            picture = await asyncio.shield(asked)
        except PublishError as error:
            return JSONResponse({"error": str(error)}, 503)
        return Response(picture, media_type="image/jpeg") if picture else Response(status_code=204)


class Control:
    """Hands changes of sources to the run that answers at ``serve.control``, whose token no page ever sees."""

    def __init__(self, config: ServeConfig) -> None:
        self._address = (config.control or "").rstrip("/")
        self._token = read_token("serve.control_token", config.control_token)
        if self._address and self._token is None:
            raise ConfigError("serve.control: set serve.control_token, too, the run's health.token")
        self.possible = bool(self._address)

    async def forward(self, request: Request) -> Response:
        """Answer what the run answers."""
        if not self.possible:
            return JSONResponse(
                {"error": "this page controls nothing: set serve.control to a run's health address"}, 403
            )
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return JSONResponse({"error": "send application/json"}, 415)
        try:
            body = await request.body()
            answer = await run_in_threadpool(self._ask, request.method, request.url.path, body)
        except httpx2.HTTPError as error:
            return JSONResponse({"error": f"the run does not answer ({type(error).__name__})"}, 502)
        return Response(answer.content, answer.status_code, media_type="application/json")

    def paused(self) -> frozenset[str]:
        """Return the sources that the run has paused; none where it does not answer."""
        if not self.possible:
            return frozenset()
        try:
            found: Any = self._ask("GET", "/sources").json()
            return frozenset(one["id"] for one in found["sources"] if one["paused"])
        except (httpx2.HTTPError, ValueError, LookupError, TypeError):
            return frozenset()

    def _ask(self, method: str, path: str, body: bytes = b"") -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        # No proxy sees a token that goes to this machine.
        with httpx2.Client(timeout=_CONTROL_SECONDS, trust_env=not is_loopback(self._address)) as client:
            return client.request(method, f"{self._address}/v1{path}", content=body, headers=headers)


class Guard:
    """Lets nobody in who has no token; every answer has the same headers."""

    def __init__(self, app: ASGIApp, passed: Callable[[HTTPConnection], bool]) -> None:
        self._app, self._passed = app, passed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = HTTPConnection(scope)

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                more = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in more if one[0] not in known)]
            await send(message)

        answer = self._app
        if not self._passed(asked):
            answer = JSONResponse({"error": "the token is asked for again: load the page anew"}, 401)
            if asked.url.path == "/":
                answer = HTMLResponse(_LOGIN.format(""), 401)
        await answer(scope, receive, sent)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
