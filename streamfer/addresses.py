"""Addresses that users write: one reader for all, whose errors never repeat them; secrets that stand elsewhere."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, unquote

from streamfer.errors import ConfigError
from streamfer.redaction import redact_url, sounds_secret

_HTTP = ("http", "https")
#: What comes to a port of this machine; a host is a group that is joined, or which of its own addresses.
_RECEIVED = ("udp", "rtp")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_WORDS = re.compile(r"(?=.{1,64}$)\w{1,14}([-_. ]+\w{1,14})*\.[A-Za-z]\w{1,4}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
_ESCAPES = "in names and passwords write % as %25, / as %2F, ? as %3F, # as %23, [ as %5B, ] as %5D, @ as %40"


class AddressError(ValueError):
    """An address that cannot be read; the message says why and never repeats it."""


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL that name a place."""

    scheme: str  #: in lower case
    host: str  #: as written, without brackets; empty where anything that comes to a port is meant
    port: int | None  #: None where none is written

    @property
    def label(self) -> str:
        """The host as a part of names."""
        return _UNSAFE.sub("-", self.host or f"{self.scheme}-{self.port}").strip("-")


def read_address(url: str) -> Address:
    """Read ``SCHEME://[USER[:PASSWORD]@]HOST[:PORT][/...]``, and ``udp://@[HOST]:PORT``.

    Raises:
        AddressError: it names no host (what is received: no port), its port is none, or a character makes it ambiguous.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise AddressError("it has no scheme")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    user, at, place = authority.rpartition("@")
    host, port = _host_and_port(place)
    # A "/", "?" or "#" in a password ends the authority before its "@", which then stands behind it.
    cut_off = "@" in behind and (scheme.lower() not in _HTTP or not (port is None or port.isdecimal()))
    if cut_off or set("[]") & set(user) or _PERCENT.search(user) or any(map(str.isspace, url)):
        raise AddressError(_ESCAPES)
    if not host and scheme.lower() not in _RECEIVED:
        raise AddressError("the URL names no host")
    if not port and scheme.lower() in _RECEIVED:
        raise AddressError("the URL names no port: udp://@239.1.1.1:1234 joins a group, udp://@:1234 takes what comes")
    if port is not None and not (port.isdecimal() and int(port) <= 65535):
        # What stands there may be the rest of a password.
        hint = "" if at or port.isdecimal() else f"; {_ESCAPES}"
        raise AddressError(f"the port is no number from 0 to 65535{hint}")
    return Address(scheme.lower(), host, int(port) if port else None)


def _host_and_port(place: str) -> tuple[str, str | None]:
    if place.startswith("["):
        host, closed, port = place[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise AddressError("its brackets hold no IPv6 address")
        return host, port[1:] or None
    host, colon, port = place.partition(":")
    return host, port if colon and port else None


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine itself; a name that begins like its address (``127.example``) does not."""
    try:
        host = read_address(url).host.lower()
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_name(url: str) -> str:
    """Return the name of a place: its host and a digest of its address, free of all that could be secret.

    Between them stands the file of a download, where it is made of words: what is longer could be a token.

    Raises:
        AddressError: see :func:`read_address`.
    """
    digest = hashlib.sha256(redact_url(url).encode(errors="surrogateescape")).hexdigest()[:8]
    address = read_address(url)
    last = unquote(re.split("[?#]", url)[0].rpartition("/")[2]) if address.scheme in _HTTP else ""
    plain = _WORDS.fullmatch(last) and not sounds_secret(last)
    return "-".join(filter(None, (address.label, _UNSAFE.sub("-", last) if plain else "", digest)))


def fill(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Put secrets in the place of ``${NAME}``, ``${file:PATH}`` and ``${keyring:SERVICE:USER}``.

    Within a URL they are percent-encoded, so that they may hold any character.

    Args:
        text: a URL or a single secret.
        environment: ``os.environ`` if None.

    Raises:
        ConfigError: there is no such variable, file or entry of the keyring, or no command ``keyring``.
    """
    whole = _PLACEHOLDER.fullmatch(text)

    def put(match: re.Match[str]) -> str:
        secret = _secret(match[1], os.environ if environment is None else environment)
        return secret if whole else quote(secret, safe="")

    return _PLACEHOLDER.sub(put, text)


def with_credentials(url: str, user: str | None, password: str | None) -> str:
    """Return ``url`` with these credentials in the place of its own; None leaves them out."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    secret = "" if password is None else f":{quote(password, safe='')}"
    return f"{scheme}://{quote(user or '', safe='')}{secret}@{authority.rpartition('@')[2]}{behind}"


def _secret(name: str, environment: Mapping[str, str]) -> str:
    kind, colon, rest = name.partition(":")
    if colon and kind == "file":
        try:
            return Path(rest).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"${{{name}}}: the file cannot be read ({getattr(error, 'strerror', error)})") from None
    if colon and kind == "keyring":
        service, _, user = rest.partition(":")
        try:
            found = subprocess.run(["keyring", "get", service, user], capture_output=True, text=True, check=False)
        except OSError:
            raise ConfigError(f"${{{name}}}: the command keyring is not installed: pip install keyring") from None
        if found.returncode:
            raise ConfigError(f"${{{name}}}: the keyring has no such entry; keyring set {service} {user}")
        return found.stdout.rstrip("\r\n")
    if name not in environment:
        raise ConfigError(f"${{{name}}}: the environment has no such variable")
    return environment[name]


def seconds_to_wait(header: str | None) -> float | None:
    """Return the seconds that a server's Retry-After asks to wait, which holds seconds or a date; None for neither."""
    try:
        text = (header or "").strip()
        if text.replace(".", "", 1).isdecimal():
            return float(text)
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
