"""A small HTTP server in a thread of its own, for any routes; nobody who asks can use up this process."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamfer.addresses import AddressError, fill, is_loopback, read_address
from streamfer.closing import Closing
from streamfer.errors import ConfigError

_END_SECONDS = 3.0
_GRACE_SECONDS = 1
#: Whoever takes nothing of an answer for so long is let go.
_STUCK_SECONDS = 30.0
#: Whoever asks for nothing for so long is let go, however slowly it sends.
_SILENT_SECONDS = 10.0
_MOST_CONNECTIONS = 256
_BODY_SECONDS = 20.0
_MOST_BODY_BYTES = 1 << 20

log = logging.getLogger(__name__)


class _Protocol(H11Protocol):
    """HTTP to so many at once, and to nobody who holds a connection without a request."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
        self._look_later()

    def _look_later(self) -> None:
        self.loop.call_later(_SILENT_SECONDS, self._look, self.cycle)

    def _look(self, before: Any) -> None:
        if self.cycle is before and (before is None or before.response_complete):
            self.transport.abort()
        elif not self.transport.is_closing():
            self._look_later()


class _Bounds:
    """Reads so much of a body within so long, and answers no pages of other names (DNS rebinding) on loopback."""

    def __init__(self, app: ASGIApp, private: bool) -> None:
        self._app, self._private = app, private

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        host = HTTPConnection(scope).headers.get("host")
        if self._private and host and not is_loopback(f"http://{host}"):
            refused = JSONResponse({"error": "this is asked by its own address alone, such as localhost"}, 421)
            await refused(scope, receive, send)
            return
        until = asyncio.get_running_loop().time() + _BODY_SECONDS
        size, whole = 0, False

        async def bounded() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body did not come") from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > _MOST_BODY_BYTES:
                raise HTTPException(413, f"a body has {_MOST_BODY_BYTES} bytes at most")
            return message

        await self._app(scope, bounded, send)


class Server(Closing):
    """Answers ``routes`` at ``[HOST:]PORT``, on this machine alone without a host, until it is closed.

    A ConfigError names the ``setting`` whose address is none, or taken; ``url`` is where it listens.
    """

    def __init__(
        self,
        address: str,
        routes: Sequence[BaseRoute],
        middleware: Sequence[Middleware] = (),
        setting: str = "health.address",
    ) -> None:
        self._socket = _listen(address, setting)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        config = uvicorn.Config(
            Starlette(
                routes=list(routes),
                middleware=[Middleware(_Bounds, private=is_loopback(self.url)), *middleware],
            ),
            http=_Protocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._work, name="streamfer http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; requests that are under way have a second."""
        self._server.should_exit = True
        self._thread.join(_END_SECONDS)
        self._socket.close()

    def _work(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except Exception:
            log.exception("http.ended", extra={"server": self.url})


def listening_url(address: str, setting: str) -> str:
    """Return ``[HOST:]PORT`` as a URL (ConfigError: it is none), this machine's own without a host."""
    text = address.strip()
    url = f"http://{f'127.0.0.1:{text}' if text.isdecimal() else text}"
    try:
        port = read_address(url).port
    except AddressError as error:
        raise _unheard(setting, error) from None
    if port is None:
        raise _unheard(setting, "it has no port")
    return url


def read_token(setting: str, text: str | None) -> str | None:
    """Return a token, filled in where it names a secret; None where there is none.

    Raises:
        ConfigError: it is empty, or not where it is said to be.
    """
    token = None if text is None else fill(text)
    if token == "":
        raise ConfigError(f"{setting}: it is empty; set one, or none")
    return token


def _listen(address: str, setting: str) -> socket.socket:
    place = read_address(listening_url(address, setting))
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        listener = socket.create_server((place.host, place.port or 0), family=family)
    except (OSError, OverflowError) as error:
        raise _unheard(setting, error) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_STUCK_SECONDS * 1000))
    return listener


def _unheard(setting: str, error: Exception | str) -> ConfigError:
    reason = getattr(error, "strerror", None) or error
    return ConfigError(
        f"{setting}: nothing can listen there ({reason}); write [HOST:]PORT with a free port, as 9090 or 0.0.0.0:9090"
    )
