"""Connecting to Redis, and what its failures mean to a user.

``redis+sentinel://HOST:26379,HOST:26379/NAME/0`` asks Sentinels (``sentinel_username`` and ``sentinel_password`` in the
query are theirs) which server is the primary called NAME; ``redis+cluster://HOST:PORT,HOST:PORT`` names some nodes of a
Cluster. With ``rediss`` in front both speak TLS.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import redis
import redis.asyncio
import redis.cluster
import redis.sentinel
from redis import exceptions as faults
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from streamfer.addresses import AddressError, fill, read_address
from streamfer.errors import PublishError
from streamfer.redaction import redact_text, redact_url

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_PORTS = {"": 6379, "cluster": 6379, "sentinel": 26379}
#: Whatever a command to a server may raise.
TROUBLE = (faults.RedisError, faults.RedisClusterException, OSError)
_ANSWER_SECONDS = 5.0
_CONNECT_SECONDS = 3.0
_CREDENTIALS = ("username", "password")


class _LateCluster:
    """A Cluster's client that is made when it is first asked for something: making it asks the Cluster."""

    def __init__(self, make: Callable[[], redis.cluster.RedisCluster]) -> None:
        self._make = make
        self._made: redis.cluster.RedisCluster | None = None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)

    def disconnect_connection_pools(self) -> None:
        if self._made is not None:
            self._made.disconnect_connection_pools()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


def is_cluster(url: str | None) -> bool:
    """Whether ``url`` names a Cluster, whose partitions cannot be asked in one command."""
    return url is not None and url.partition("://")[0].endswith("+cluster")


def is_watched(url: str | None) -> bool:
    """Whether ``url`` names Sentinels, whose primary may change."""
    return url is not None and url.partition("://")[0].endswith("+sentinel")


def make_client(url: str, *, socket_timeout: float = _ANSWER_SECONDS, asynchronous: bool = False) -> redis.Redis:
    """Return a client of ``url`` that has not connected yet and never tries anything twice: its owner does.

    Args:
        url: a URL of :data:`SCHEMES`.
        socket_timeout: seconds to wait for an answer; blocking reads must ask for less.
        asynchronous: a client whose commands are awaited.

    Raises:
        PublishError: the URL cannot be read, or its scheme is none of these.
    """
    filled = fill(url)
    kind, hosts, service, plain = _read(filled)
    package: Any = redis.asyncio if asynchronous else redis
    waits: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": _CONNECT_SECONDS,
        # A connection that died unnoticed (NAT, suspended host) is found before it is used again.
        "health_check_interval": 15,
        "retry": (AsyncRetry if asynchronous else Retry)(NoBackoff(), 0),
    }
    options = {**waits, "client_name": "streamfer"}
    try:
        if not kind:
            return cast("redis.Redis", package.Redis.from_url(plain, **options))
        found: dict[str, Any] = parse_url(plain)  # type: ignore[no-untyped-call]
        found = {name: value for name, value in found.items() if name not in ("host", "port")}
        if found.pop("connection_class", None):
            found["ssl"] = True
        if kind == "cluster":
            if found.pop("db", 0):
                raise PublishError("the Redis URL cannot be read: a Cluster has the database 0 alone")
            nodes = [package.cluster.ClusterNode(*host) for host in hosts]
            settings = {**options, **found, "startup_nodes": nodes, "require_full_coverage": False}
            if asynchronous:
                return cast("redis.Redis", redis.asyncio.RedisCluster(**settings))
            return cast("redis.Redis", _LateCluster(lambda: redis.cluster.RedisCluster(**settings)))
        theirs = {name: found.pop(f"sentinel_{name}") for name in _CREDENTIALS if f"sentinel_{name}" in found}
        secure = {name: value for name, value in found.items() if name.startswith("ssl")}
        sentinel = package.sentinel.Sentinel(hosts, sentinel_kwargs={**waits, **secure, **theirs})
        return cast("redis.Redis", sentinel.master_for(service, **{**options, **found}))
    except (ValueError, TypeError) as error:
        # Its words repeat the URL, or parts of it.
        kind = type(error).__name__
        raise PublishError(f"the Redis URL cannot be read ({kind}): write redis://USER:PASSWORD@HOST:PORT/0") from None


def connect(url: str, *, socket_timeout: float = _ANSWER_SECONDS) -> redis.Redis:
    """Return a client of ``url`` at which a Redis server has just answered; arguments as of :func:`make_client`.

    Raises:
        PublishError: the URL is wrong, nothing answers, the server refuses, or it is no Redis.
    """
    client = make_client(url, socket_timeout=socket_timeout)
    try:
        client.ping()
    except (*TROUBLE, UnicodeError) as error:
        client.close()
        raise PublishError(explain(url, error)) from error
    return client


_FINAL = (faults.AuthenticationError, faults.AuthorizationError, faults.NoPermissionError, faults.InvalidResponse)
_FINAL_WORDS = ("NOAUTH", "WRONGPASS", "NOPERM", "WRONGTYPE", "ERR unknown", "unknown command")


def can_pass(error: Exception) -> bool:
    """Whether waiting may end a trouble of Redis: always, unless somebody must change rights, data or the address."""
    line = str(error)
    return not (isinstance(error, (*_FINAL, faults.DataError)) or _says(line, _FINAL_WORDS) or _foreign(line))


def _says(line: str, words: tuple[str, ...]) -> bool:
    # Out of a script the server says it in the middle of a sentence.
    return any(line.startswith(word) or f": {word}" in line for word in words)


def _foreign(line: str) -> bool:
    return "Protocol Error" in line


def _read(url: str) -> tuple[str, list[tuple[str, int]], str, str]:
    """Return ``sentinel``, ``cluster`` or nothing, the hosts, the primary's name, and a URL of the first host."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise PublishError("the Redis URL has no scheme: write redis://HOST:PORT/0")
    if scheme not in SCHEMES:
        choices = ", ".join(f"{name}://" for name in SCHEMES)
        raise PublishError(f"the Redis URL's scheme {scheme!r} is not one of {choices}")
    if scheme == "unix":
        return "", [], "", url
    plain, _, kind = scheme.partition("+")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    user, at, places = authority.rpartition("@")
    hosts = []
    try:
        for place in places.split(",") if kind else [places]:
            address = read_address(f"{plain}://{user}{at}{place}{behind}")
            hosts.append((address.host, address.port or _PORTS[kind]))
    except AddressError as error:
        raise PublishError(f"the Redis URL cannot be read: {error}") from None
    service = ""
    if kind == "sentinel":
        path, question, query = behind.partition("?")
        _, service, database, *more = [*path.split("/"), "", ""]
        if not service or any(more):
            raise PublishError("the Redis URL names no primary: write redis+sentinel://HOST:26379,HOST:26379/NAME/0")
        behind = f"/{database}{question}{query}"
    return kind, hosts, unquote(service), f"{plain}://{user}{at}{places.split(',')[0] if kind else places}{behind}"


# The first row that fits wins: most of redis-py's exceptions inherit from ConnectionError.
_EXPLANATIONS: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (faults.AuthenticationError, faults.AuthorizationError, faults.NoPermissionError),
        "denies access",
        "put user and password into the URL (redis://USER:PASSWORD@HOST)",
    ),
    ((faults.BusyLoadingError,), "is still loading its data", "try again in a moment"),
    ((faults.TimeoutError,), "does not answer", "is it running, and is this its port?"),
    (
        (faults.InvalidResponse,),
        "does not speak Redis",
        "is another service on this port, or does it want TLS (rediss://)?",
    ),
    (
        (faults.ConnectionError, OSError),
        "cannot be reached",
        "start it, or leave the URL out to use the embedded server",
    ),
    ((faults.MovedError,), "is one node of a Cluster", "write redis+cluster:// in the place of redis://"),
    ((faults.OutOfMemoryError,), "is full", "raise its maxmemory, or keep fewer entries"),
)
_DENIALS = ("NOAUTH", "WRONGPASS", "NOPERM")


def explain(url: str, error: Exception) -> str:
    """One line on ``error``: the server's address, what was wrong, and the way out."""
    line = redact_text(" ".join(str(error).split())) or type(error).__name__
    if _says(line, _DENIALS):
        error = faults.AuthenticationError(line)
    elif "OOM command" in line:
        # Out of a script the server says it in the middle of a sentence.
        error = faults.OutOfMemoryError(line)
    elif _foreign(line):
        error = faults.InvalidResponse(line)
    elif "CERTIFICATE_VERIFY_FAILED" in line:
        way_out = "name the file of its authority: rediss://HOST/0?ssl_ca_certs=FILE"
        return f"Redis at {redact_url(url)} has a certificate that nothing here vouches for: {line}; {way_out}"
    for kinds, what, way_out in _EXPLANATIONS:
        if isinstance(error, kinds):
            return f"Redis at {redact_url(url)} {what}: {line}; {way_out}"
    return f"Redis at {redact_url(url)} refuses: {line}"
