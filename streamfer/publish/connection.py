"""Connecting to Redis, and what its failures mean to a user.

``redis+sentinel://HOST:26379,HOST:26379/NAME/0`` asks Sentinels (``sentinel_username`` and ``sentinel_password`` in the
query are theirs) which server is the primary called NAME; ``redis+cluster://HOST:PORT,HOST:PORT`` names some nodes of a
Cluster. With ``rediss`` in front both speak TLS.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import redis
import redis.cluster
import redis.sentinel
from redis import exceptions as faults
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.credentials import CredentialProvider
from redis.retry import Retry

from streamfer.addresses import AddressError, fill, read_address, with_credentials
from streamfer.errors import PublishError, UserError
from streamfer.redaction import redact_text, redact_url

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_PORTS = {"": 6379, "cluster": 6379, "sentinel": 26379}
#: Whatever a command to a server may raise.
TROUBLE = (faults.RedisError, faults.RedisClusterException, OSError)
_ANSWER_SECONDS = 5.0
_CONNECT_SECONDS = 3.0
_AGAIN_SECONDS = 60.0
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


class _Secrets(CredentialProvider):
    """User and password as the place that the URL names has them now: a password may change while a run lasts."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            found: dict[str, str] = parse_url(_read(fill(self._url))[3])  # type: ignore[no-untyped-call]
        except UserError as error:
            raise faults.ConnectionError(str(error)) from None
        user, password = found.get("username"), found.get("password", "")
        return (user, password) if user else (password,)


class Told:
    """What was told within the last minute: a trouble that comes and goes is not told each time."""

    def __init__(self) -> None:
        self._when: dict[str, float] = {}

    def is_new(self, line: str) -> bool:
        """Take note that a line is told now, unless it was told lately, perhaps with another word of the system's."""
        now = time.monotonic()
        line = line if " refuses: " in line else line.partition(": ")[0]
        self._when = {told: when for told, when in self._when.items() if now - when < _AGAIN_SECONDS}
        return self._when.setdefault(line, now) == now


def is_cluster(url: str | None) -> bool:
    """Whether ``url`` names a Cluster, whose partitions cannot be asked in one command."""
    return url is not None and url.partition("://")[0].endswith("+cluster")


def node_of(client: Any, key: str) -> dict[str, Any]:
    """Have a command go to the node of a Cluster that has a key; redis-py would ask any for it, with all its words."""
    find = getattr(client, "get_node_from_key", None)
    try:
        return {"target_nodes": find(key)} if find else {}
    except faults.SlotNotCoveredError:
        if isinstance(client, _LateCluster):
            client.nodes_manager.initialize()
        raise


def disconnect(client: Any) -> None:
    """Break a client's connections, so that who waits for the server waits no more."""
    if isinstance(client, _LateCluster):
        client.disconnect_connection_pools()
    else:
        client.connection_pool.disconnect()


def is_watched(url: str | None) -> bool:
    """Whether ``url`` names Sentinels, whose primary may change."""
    return url is not None and url.partition("://")[0].endswith("+sentinel")


def make_client(url: str, *, socket_timeout: float = _ANSWER_SECONDS) -> redis.Redis:
    """Return a client of ``url`` that has not connected yet and never tries anything twice: its owner does.

    An answer may take ``socket_timeout`` seconds; blocking reads must ask for less.

    Raises:
        PublishError: the URL cannot be read, or its scheme is none of these.
    """
    kind, hosts, service, plain = _read(fill(url))
    package: Any = redis  # of which not all has types
    waits: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": _CONNECT_SECONDS,
        # A connection that died unnoticed (NAT, suspended host) is found before it is used again.
        "health_check_interval": 15,
        "retry": Retry(NoBackoff(), 0),
    }
    options = {**waits, "client_name": "streamfer"}
    if "${" in url and any((secrets := _Secrets(url)).get_credentials()):
        plain, options["credential_provider"] = with_credentials(plain, None, None), secrets
    try:
        if not kind:
            client = redis.Redis.from_url(plain, **options)
            # Connects to nothing, and finds what the query holds that is no setting.
            client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
            return client
        found: dict[str, Any] = parse_url(plain)  # type: ignore[no-untyped-call]
        found = {name: value for name, value in found.items() if name not in ("host", "port")}
        if found.pop("connection_class", None):
            found["ssl"] = True
        if kind == "cluster":
            if found.pop("db", 0):
                raise PublishError("the Redis URL cannot be read: a Cluster has the database 0 alone")
            nodes = [package.cluster.ClusterNode(*host) for host in hosts]
            settings = {**options, **found, "startup_nodes": nodes, "require_full_coverage": False}
            return cast("redis.Redis", _LateCluster(lambda: redis.cluster.RedisCluster(**settings)))
        theirs = {name: found.pop(f"sentinel_{name}") for name in _CREDENTIALS if f"sentinel_{name}" in found}
        secure = {name: value for name, value in found.items() if name.startswith("ssl")}
        sentinel = package.sentinel.Sentinel(hosts, sentinel_kwargs={**waits, **secure, **theirs})
        return cast("redis.Redis", sentinel.master_for(service, **{**options, **found}))
    except (ValueError, TypeError, faults.RedisError) as error:
        # Its words repeat the URL, or parts of it.
        kind = type(error).__name__
        raise PublishError(f"the Redis URL cannot be read ({kind}): write redis://USER:PASSWORD@HOST:PORT/0") from None


def connect(url: str, *, waits: bool = False, socket_timeout: float = _ANSWER_SECONDS) -> redis.Redis:
    """Return a client of ``url`` at which a Redis server has just answered, or ``waits`` for what may pass.

    Raises:
        PublishError: the URL is wrong, nothing answers, the server refuses, or it is no Redis.
    """
    client = make_client(url, socket_timeout=socket_timeout)
    try:
        client.ping()
    except (*TROUBLE, UnicodeError) as error:
        if not (waits and isinstance(error, TROUBLE) and can_pass(error)):
            client.close()
            raise PublishError(explain(url, error)) from error
    return client


_REFUSED = (faults.AuthenticationError, faults.AuthorizationError, faults.NoPermissionError, faults.InvalidResponse)
# Out of a script the server says it in the middle of a sentence, and in its own words.
_DENIED = r"NOPERM|no permissions|can't run this command|can't access at least one"
_UNKNOWN = r"unknown (redis )?(sub)?command"
_REFUSED_WORDS = re.compile(rf"(^|: -?)(NOAUTH|WRONGPASS)|{_DENIED}|protocol error", re.I)
_FINAL_WORDS = re.compile(rf"(^|: -?)(WRONGTYPE|DB index)|{_UNKNOWN}", re.I)


def can_pass(error: Exception, *, served: bool = False) -> bool:
    """Whether waiting may end a trouble of Redis: always, unless somebody must change rights, data or the address.

    Where rights and address ``served`` before, they may again.
    """
    refused = isinstance(error, _REFUSED) or _REFUSED_WORDS.search(str(error))
    final = isinstance(error, faults.DataError) or _FINAL_WORDS.search(str(error))
    return not (final or (refused and not served))


def _read(url: str) -> tuple[str, list[tuple[str, int]], str, str]:
    """Return ``sentinel``, ``cluster`` or nothing, the hosts, the primary's name, and a URL of the first host."""
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.replace("+", "").isalnum():
        # What stands there may be a part of a password.
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
    if not re.fullmatch(r"/?\d*", re.split("[?#]", behind, maxsplit=1)[0]):
        # redis-py would take any other for 0.
        raise PublishError("the Redis URL's database is no number: write redis://HOST:PORT/0")
    return kind, hosts, unquote(service), f"{plain}://{user}{at}{places.split(',')[0] if kind else places}{behind}"


# What fits the names of an error's kinds, or its words; what the server is said to do; the way out. The first row that
# fits wins: most of redis-py's exceptions are ConnectionErrors, too, and out of a script all are one kind.
_EXPLANATIONS = (
    (rf"NoPermissionError|{_DENIED}", "denies a command",
     "allow this user what a run and its readers need, as in docs/records.md"),
    (r"Auth(entication|orization)Error|NOAUTH|WRONGPASS", "denies access",
     "put user and password into the URL (redis://USER:PASSWORD@HOST)"),
    (r"protected mode", "takes its own machine alone", "give it a password, or set its protected-mode to no"),
    (r"max number of clients", "has no room for another client", "raise its maxclients"),
    (r"BusyLoadingError|\bLOADING\b", "is still loading its data", "try again in a moment"),
    (r"^TimeoutError|timed out", "does not answer", "is it running, and is this its port?"),
    (r"InvalidResponse|protocol error", "does not speak Redis",
     "is another service on this port, or does it want TLS (rediss://)?"),
    (r"certificate has expired", "has a certificate whose time is over", "renew it"),
    (r"CERTIFICATE_VERIFY_FAILED", "has a certificate that nothing here vouches for",
     "name the file of its authority: rediss://HOST/0?ssl_ca_certs=FILE"),
    (r"No master found", "is not known", "are the Sentinels up, and is this the primary's name?"),
    (r"mode is not enabled", "is no node of a Cluster", "write redis:// in the place of redis+cluster://"),
    (r"WRONG_VERSION_NUMBER|RECORD_LAYER", "does not speak TLS", "write redis:// in the place of rediss://"),
    (_UNKNOWN, "does not know a command", "it has to be Redis 6.2 or later, or as good, and no Sentinel"),
    (r"OutOfMemoryError|OOM command", "is full", "raise its maxmemory, or keep fewer entries"),
    (r"ReadOnlyError|read only replica", "is a replica", "give its primary's address, or its Sentinels'"),
    (r"\bConnectionError|OSError", "cannot be reached", "start it, or leave the URL out to use the embedded server"),
    (r"MovedError", "is one node of a Cluster", "write redis+cluster:// in the place of redis://"),
)  # fmt: skip


def explain(url: str, error: Exception) -> str:
    """One line on ``error``: the server's address, what was wrong, and the way out."""
    # What it does not know it repeats, up to a whole script.
    said = str(error).partition(", with args beginning with")[0]
    # Of each Sentinel that was asked redis-py shows the whole object, and a server where in a script it was.
    said = re.sub(r"<redis\..*?> - | script: \w+, on @user_script:\d+", "", said)
    line = redact_text(" ".join(said.split())).rstrip(".") or type(error).__name__
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    for words, what, way_out in _EXPLANATIONS:
        if re.search(words, f"{kinds}: {line}", re.IGNORECASE):
            return f"Redis at {redact_url(url)} {what}: {line}; {way_out}"
    return f"Redis at {redact_url(url)} refuses: {line}"
