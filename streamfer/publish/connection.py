"""Connecting to Redis, and what its failures mean to a user."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import redis
import stamina.instrumentation
from redis import exceptions as faults
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from streamfer.errors import PublishError
from streamfer.redaction import redact_text, redact_url

SCHEMES = ("redis", "rediss", "unix")
_ANSWER_SECONDS = 5.0

log = logging.getLogger(__name__)


def _say_retry(details: stamina.instrumentation.RetryDetails) -> None:
    reason = redact_text(str(details.caused_by))
    log.info("redis.retry", extra={"attempt": details.retry_num, "wait": details.wait_for, "reason": reason})


# By itself, stamina prints every retry on standard output where structlog is installed and not configured.
stamina.instrumentation.set_on_retry_hooks([_say_retry])


def connect(
    url: str,
    *,
    socket_timeout: float = _ANSWER_SECONDS,
    connect_timeout: float = 3.0,
    retries: int = 3,
    client_name: str = "streamfer",
) -> redis.Redis:
    """Open a client on ``url`` and make sure that a Redis server answers there.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://`` URL.
        socket_timeout: seconds to wait for an answer; blocking reads must ask for less.
        connect_timeout: seconds to wait for a connection.
        retries: attempts by redis-py itself after a lost connection; 0 where the caller must know of each loss.
        client_name: shown by ``CLIENT LIST``.

    Raises:
        PublishError: the scheme is none of these, nothing answers, the server refuses, or it is no Redis.
    """
    _check_scheme(url)
    try:
        client = redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=socket_timeout,
            socket_connect_timeout=connect_timeout,
            # A connection that died unnoticed (NAT, suspended host) is found before it is used again.
            health_check_interval=15,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries),
            client_name=client_name,
        )
    except (ValueError, TypeError) as error:
        raise PublishError(f"Redis URL {redact_url(url)!r} cannot be read: {redact_text(str(error))}") from None
    try:
        with reported(url):
            client.ping()
    except PublishError:
        client.close()
        raise
    return client


def _check_scheme(url: str) -> None:
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise PublishError(f"Redis URL {redact_url(url)!r} cannot be read: {error}") from None
    if "://" not in url:
        raise PublishError(f"Redis URL {redact_url(_hidden(url))!r} has no scheme: write redis://HOST:PORT/0")
    if scheme not in SCHEMES:
        choices = ", ".join(f"{name}://" for name in SCHEMES)
        raise PublishError(f"Redis URL {redact_url(url)!r}: scheme {scheme!r} is not one of {choices}")


def _hidden(text: str) -> str:
    # "user:password@host" without a scheme is no URL to redact_url, but holds a password all the same.
    return f"***@{text.rpartition('@')[2]}" if "@" in text else text


@contextmanager
def reported(url: str) -> Iterator[None]:
    """Turn redis-py's exceptions into a :class:`PublishError` that names ``url`` without its credentials."""
    try:
        yield
    except (faults.RedisError, OSError, UnicodeError) as error:
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
    elif "Protocol Error" in line:
        error = faults.InvalidResponse(line)
    for kinds, what, way_out in _EXPLANATIONS:
        if isinstance(error, kinds):
            return f"Redis at {redact_url(url)} {what}: {line}; {way_out}"
    return f"Redis at {redact_url(url)} refuses: {line}"


def _line(error: Exception) -> str:
    return redact_text(" ".join(str(error).split())) or type(error).__name__
