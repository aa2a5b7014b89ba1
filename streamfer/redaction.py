"""Removing credentials from URLs before they are shown, logged or stored."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_MASK = "***"
_SECRET_PARAMETER = re.compile(r"pass|pwd|secret|token|key|auth|sig|credential", re.IGNORECASE)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return ``url`` with its user, password and secret-looking query values masked.

    Works on malformed URLs too: whatever stands between ``://`` and the last ``@`` of the authority goes.

    >>> redact_url("rtsp://admin:p%40ss@10.0.0.5/live?token=abc&fps=5")
    'rtsp://***@10.0.0.5/live?token=***&fps=5'
    """
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return re.sub(r"://.*@", f"://{_MASK}@", url)
    authority = parts.netloc
    if "@" in authority:
        authority = f"{_MASK}@{authority.rpartition('@')[2]}"
    query = parts.query
    if query:
        pairs = parse_qsl(query, keep_blank_values=True)
        if any(_SECRET_PARAMETER.search(name) for name, _ in pairs):
            masked = [(name, _MASK if _SECRET_PARAMETER.search(name) else value) for name, value in pairs]
            query = urlencode(masked, safe="*/:,")
    # A raw "@" or "/" in a password moves it out of the authority: mask that shape too.
    path = re.sub(r"^.*@", f"{_MASK}@", parts.path) if "@" in parts.path and ":" in authority else parts.path
    return urlunsplit((parts.scheme, authority, path, query, ""))


def redact_text(text: str) -> str:
    """Return ``text`` with every URL inside it redacted (FFmpeg prints passwords in its messages)."""
    return _URL.sub(lambda match: redact_url(match.group()), text)
