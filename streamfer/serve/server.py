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

from streamfer.addresses import AddressError, read_address
from streamfer.closing import Closing
from streamfer.errors import ConfigError

_END_SECONDS = 3.0
_GRACE_SECONDS = 1

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


def _listen(address: str, setting: str) -> socket.socket:
    text = address.strip()
    try:
        place = read_address(f"http://{f'127.0.0.1:{text}' if text.isdecimal() else text}")
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        return socket.create_server((place.host, -1 if place.port is None else place.port), family=family)
    except (AddressError, OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        way_out = "write [HOST:]PORT with a free port, as 9090 or 0.0.0.0:9090"
        raise ConfigError(f"{setting}: nothing can listen there ({reason}); {way_out}") from None
