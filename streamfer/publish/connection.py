"""Connecting to Redis, and what its failures mean to a user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis import exceptions as faults
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamfer.addresses import AddressError, fill, read_address
from streamfer.errors import PublishError
from streamfer.redaction import redact_text, redact_url

SCHEMES = ("redis", "rediss", "unix")
#: Whatever a command to a server may raise.
TROUBLE = (faults.RedisError, OSError)
_ANSWER_SECONDS = 5.0


def make_client(
    url: str,
    *,
    socket_timeout: float = _ANSWER_SECONDS,
    connect_timeout: float = 3.0,
    client_name: str = "streamfer",
) -> redis.Redis:
    """Return a client of ``url`` that has not connected yet and never tries anything twice: its owner does.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://`` URL.
        socket_timeout: seconds to wait for an answer; blocking reads must ask for less.
        connect_timeout: seconds to wait for a connection.
        client_name: shown by ``CLIENT LIST``.

    Raises:
        PublishError: the URL cannot be read, or its scheme is none of these.
    """
    filled = fill(url)
    _check(filled)
    try:
        return redis.Redis.from_url(
            filled,
            protocol=2,
            socket_timeout=socket_timeout,
            socket_connect_timeout=connect_timeout,
            # A connection that died unnoticed (NAT, suspended host) is found before it is used again.
            health_check_interval=15,
            retry=Retry(NoBackoff(), 0),
            client_name=client_name,
        )
    except (ValueError, TypeError) as error:
        # Its words repeat the URL, or parts of it.
        kind = type(error).__name__
        raise PublishError(f"the Redis URL cannot be read ({kind}): write redis://USER:PASSWORD@HOST:PORT/0") from None


def connect(url: str, *, socket_timeout: float = _ANSWER_SECONDS, client_name: str = "streamfer") -> redis.Redis:
    """Return a client of ``url`` at which a Redis server has just answered; arguments as of :func:`make_client`.

    Raises:
        PublishError: the URL is wrong, nothing answers, the server refuses, or it is no Redis.
    """
    client = make_client(url, socket_timeout=socket_timeout, client_name=client_name)
    try:
        with reported(url):
            client.ping()
    except PublishError:
        client.close()
        raise
    return client


_FINAL = (faults.AuthenticationError, faults.AuthorizationError, faults.NoPermissionError, faults.InvalidResponse)
_FINAL_WORDS = ("NOAUTH", "WRONGPASS", "NOPERM", "WRONGTYPE", "ERR unknown", "unknown command")


def can_pass(error: Exception) -> bool:
    """Whether waiting may end a trouble of Redis: always, unless somebody must change rights, data or the address."""
    line = str(error)
    return not (isinstance(error, (*_FINAL, faults.DataError)) or line.startswith(_FINAL_WORDS) or _foreign(line))


def _foreign(line: str) -> bool:
    return "Protocol Error" in line


def _check(url: str) -> None:
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise PublishError("the Redis URL has no scheme: write redis://HOST:PORT/0")
    if scheme not in SCHEMES:
        choices = ", ".join(f"{name}://" for name in SCHEMES)
        raise PublishError(f"the Redis URL's scheme {scheme!r} is not one of {choices}")
    try:
        if scheme != "unix":
            read_address(url)
    except AddressError as error:
        raise PublishError(f"the Redis URL cannot be read: {error}") from None


@contextmanager
def reported(url: str) -> Iterator[None]:
    """Turn redis-py's exceptions into a :class:`PublishError` that names ``url`` without its credentials."""
    try:
        yield
    except (*TROUBLE, UnicodeError) as error:
        raise PublishError(explain(url, error)) from error


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
    ((faults.OutOfMemoryError,), "is full", "raise its maxmemory, or keep fewer entries"),
)
_DENIALS = ("NOAUTH", "WRONGPASS", "NOPERM")


def explain(url: str, error: Exception) -> str:
    """One line on ``error``: the server's address, what was wrong, and the way out."""
    line = _line(error)
    if line.startswith(_DENIALS):
        error = faults.AuthenticationError(line)
    elif "OOM command" in line:
        # Out of a script the server says it in the middle of a sentence.
        error = faults.OutOfMemoryError(line)
    elif _foreign(line):
        error = faults.InvalidResponse(line)
    for kinds, what, way_out in _EXPLANATIONS:
        if isinstance(error, kinds):
            return f"Redis at {redact_url(url)} {what}: {line}; {way_out}"
    return f"Redis at {redact_url(url)} refuses: {line}"


def _line(error: Exception) -> str:
    return redact_text(" ".join(str(error).split())) or type(error).__name__
