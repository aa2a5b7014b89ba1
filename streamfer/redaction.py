"""Removing credentials from URLs before they are shown, logged or stored."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

_MASK = "***"
_SECRET = re.compile(r"pass|pwd|secret|token|key|auth|sig|credential", re.IGNORECASE)
#: Some cameras take their password as a part of the path: ``/user=admin_password=..._channel=1``.
_SECRET_IN_PATH = re.compile(r"((?:pass(?:word|wd)?|pwd|secret|token)=)[^/&;?#]*", re.IGNORECASE)
# User and password may hold quotes and brackets, which elsewhere end a URL that stands in a sentence.
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,30}://(?:\S*@)?[^\s'\"<>]*", re.IGNORECASE)
#: How messages tell users to write a URL; a placeholder is no secret.
_PLACEHOLDER = "USER:PASSWORD@"


def redact_url(url: str) -> str:
    """Return ``url`` with its user, password and secret-looking query values masked; a fragment is left out.

    Errs on the side of masking: passwords with a raw ``/``, ``?``, ``#`` or ``@`` make URLs ambiguous, so where
    an authority can hold a user, everything up to the last ``@`` of the URL goes.

    >>> redact_url("rtsp://admin:p%40ss@10.0.0.5/live?token=abc&fps=5")
    'rtsp://***@10.0.0.5/live?token=***&fps=5'
    """
    scheme, separator, rest = url.partition("://")
    if not separator or rest.startswith(_PLACEHOLDER):
        return url
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user = ""
    if "@" in rest and ("@" in authority or ":" in authority):
        user, rest = f"{_MASK}@", rest.rpartition("@")[2]
    rest = rest.partition("#")[0]
    place, question, query = rest.partition("?")
    place = _SECRET_IN_PATH.sub(rf"\1{_MASK}", place)
    return f"{scheme}://{user}{place}{question}{'&'.join(map(_redact_pair, query.split('&')))}"


def sounds_secret(name: str) -> bool:
    """Whether what has this name should not be shown."""
    return _SECRET.search(name) is not None


def redact_text(text: str) -> str:
    """Return ``text`` with every URL inside it redacted (FFmpeg prints passwords in its messages)."""
    return _URL.sub(lambda match: redact_url(match.group()), text)


def hide_urls(text: str) -> str:
    """Return ``text`` with nothing but the schemes of its URLs: a traceback shows what others put into their errors."""
    return _URL.sub(lambda match: f"{match.group().partition('://')[0]}://{_MASK}", text)


def _redact_pair(pair: str) -> str:
    """Mask the value of one ``name=value`` of a query where the name sounds secret; ``;`` may separate more pairs."""
    parts = pair.split(";")
    for number, part in enumerate(parts):
        name, equals, _ = part.partition("=")
        if equals and sounds_secret(unquote_plus(name)):
            # A ";" behind it may belong to the secret.
            return ";".join([*parts[:number], f"{name}={_MASK}"])
    return pair
