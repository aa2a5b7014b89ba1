"""Pull a detector's weights: allowed https hosts only, digest checked, the cache never half-written."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import platformdirs

from streamfer.errors import CheckpointError, ModelError
from streamfer.faces.registry import DetectorEntry
from streamfer.files import sha256_of, write_whole

log = logging.getLogger(__name__)

#: Weights are code for a large parser: they come from these hosts or not at all.
ALLOWED_HOSTS = frozenset({"raw.githubusercontent.com", "github.com", "media.githubusercontent.com"})
TIMEOUT = 30.0
CHUNK = 1 << 16

Opener = Callable[[str], IO[bytes]]


def cache_folder() -> Path:
    """Return where pulled weights lie: STREAMFER_CACHE_DIR, or the user's cache folder for streamfer."""
    chosen = os.environ.get("STREAMFER_CACHE_DIR")
    return (Path(chosen) if chosen else Path(platformdirs.user_cache_dir("streamfer"))) / "faces"


def cached(entry: DetectorEntry, folder: Path | None = None) -> Path | None:
    """Return the pulled file when it is there and whole, else ``None``."""
    path = (folder or cache_folder()) / entry.file
    return path if path.is_file() and sha256_of(path) == entry.sha256 else None


def fetch(entry: DetectorEntry, *, folder: Path | None = None, opener: Opener | None = None) -> Path:
    """Return the weights file of ``entry``, pulling it when the cache has none with the right digest.

    Args:
        entry: a registry entry with a file, URLs and a digest.
        folder: cache folder; :func:`cache_folder` if unset.
        opener: opens a URL for reading; https with a timeout if unset.

    Raises:
        ModelError: nothing can be pulled for this entry, or no URL answers.
        CheckpointError: what came has another digest.
    """
    if not entry.file or not entry.urls:
        raise ModelError(f"{entry.name}: nothing to pull; this detector is packaged or comes as a file of yours")
    folder = folder or cache_folder()
    if (present := cached(entry, folder)) is not None:
        return present
    reasons = []
    for url in entry.urls:
        try:
            return _pull(url, entry, folder, opener or _open_https)
        except (OSError, urllib.error.URLError) as error:
            reasons.append(f"{urllib.parse.urlsplit(url).hostname}: {getattr(error, 'reason', error)}")
    raise ModelError(
        f"{entry.name}: cannot be pulled ({'; '.join(reasons)}); connect once, or put {entry.file} "
        f"(sha256 {entry.sha256[:12]}...) into {folder}, or use detector 'builtin' or 'lbp'"
    )


def _pull(url: str, entry: DetectorEntry, folder: Path, opener: Opener) -> Path:
    _check_address(url)
    log.info("weights.pull", extra={"detector": entry.name, "url": url, "bytes": entry.size, "licence": entry.licence})
    final = folder / entry.file
    received = bytearray()
    with opener(url) as answer:
        while chunk := answer.read(CHUNK):
            received += chunk
            if entry.size and len(received) > entry.size:
                raise _wrong(entry, f"more than {entry.size} bytes came")
    digest = hashlib.sha256(received).hexdigest()
    if digest != entry.sha256:
        raise _wrong(entry, f"{len(received)} bytes came with sha256 {digest[:12]}...")
    write_whole(final, lambda stream: stream.write(received))
    return final


def _wrong(entry: DetectorEntry, what: str) -> CheckpointError:
    return CheckpointError(
        f"{entry.name}: {what}; expected {entry.size} bytes with sha256 {entry.sha256[:12]}...; "
        "nothing was kept: try again, and distrust the network if it repeats"
    )


def _check_address(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or parts.hostname not in ALLOWED_HOSTS:
        raise ModelError(
            f"weights address on {parts.scheme}://{parts.hostname}: only https and the hosts "
            f"{', '.join(sorted(ALLOWED_HOSTS))} are allowed"
        )


class _AllowedRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect may not lead off the allowed hosts either."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> urllib.request.Request | None:
        request = super().redirect_request(*args, **kwargs)
        if request is not None:
            _check_address(request.full_url)
        return request


def _open_https(url: str) -> IO[bytes]:
    opener = urllib.request.build_opener(_AllowedRedirects)
    answer: IO[bytes] = opener.open(url, timeout=TIMEOUT)
    return answer
