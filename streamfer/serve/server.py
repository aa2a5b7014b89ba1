"""A small HTTP server in a thread of its own, for any routes."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from streamfer.addresses import AddressError, fill, read_address
from streamfer.closing import Closing
from streamfer.errors import ConfigError

_END_SECONDS = 3.0
_GRACE_SECONDS = 1
#: Whoever takes nothing of an answer for so long is let go.
_STUCK_SECONDS = 30.0

log = logging.getLogger(__name__)


class Server(Closing):
    """Answers ``routes`` at ``[HOST:]PORT``, on this machine alone without a host, until it is closed.

    Args:
        address: where it listens.
        routes, middleware: of the application.
        setting: what named the address.

    Attributes:
        url: where it listens.

    Raises:
        ConfigError: the address is none, or taken.
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
            Starlette(routes=list(routes), middleware=list(middleware)),
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
    """Return ``[HOST:]PORT`` as a URL, this machine's own without a host.

    Raises:
        ConfigError: it is none.
    """
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
