"""Pull a detector's weights: what comes is what the registry's digest says, and the cache is never half-written."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
from pathlib import Path

import httpx2
import platformdirs

from streamfer.errors import CheckpointError, ModelError
from streamfer.faces.registry import DetectorEntry
from streamfer.files import sha256_of, write_whole

log = logging.getLogger(__name__)

TIMEOUT = 30.0


def cached(entry: DetectorEntry) -> Path | None:
    """Return the pulled file when it is there and whole, else ``None``."""
    path = cache_folder() / entry.file
    return path if path.is_file() and sha256_of(path) == entry.sha256 else None


def cache_folder() -> Path:
    """Return where pulled weights lie: STREAMFER_CACHE_DIR, or the user's cache folder for streamfer."""
    chosen = os.environ.get("STREAMFER_CACHE_DIR")
    return (Path(chosen) if chosen else Path(platformdirs.user_cache_dir("streamfer"))) / "faces"


def fetch(entry: DetectorEntry, transport: httpx2.BaseTransport | None = None) -> Path:
    """Return the weights file of ``entry``, pulling it (through ``transport``) when the cache has none as it should be.

    Raises:
        ModelError: nothing can be pulled for this entry, or its server does not answer.
        CheckpointError: what came has another digest.
    """
    if not entry.url:
        raise ModelError(f"{entry.name}: nothing to pull; this detector is packaged or comes as a file of yours")
    if (present := cached(entry)) is not None:
        return present
    log.info("weights.pull", extra={"detector": entry.name, "url": entry.url, "licence": entry.licence})
    path, received = cache_folder() / entry.file, bytearray()
    client = httpx2.Client(
        # The system's own certificates, so that a proxy that it trusts serves.
        transport=transport, follow_redirects=True, timeout=TIMEOUT, verify=ssl.create_default_context()
    )  # fmt: skip
    try:
        with client, client.stream("GET", entry.url) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                received += chunk
                if len(received) > entry.size:
                    break
    except httpx2.HTTPError as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{entry.name}: cannot be pulled ({reason}); connect once, or put {entry.file} (sha256 "
            f"{entry.sha256[:12]}...) into {path.parent}, or use detector 'builtin' or 'lbp'"
        ) from error
    digest = hashlib.sha256(received).hexdigest()
    if digest != entry.sha256:
        raise CheckpointError(
            f"{entry.name}: {len(received)} bytes came with sha256 {digest[:12]}...; expected {entry.size} with "
            f"{entry.sha256[:12]}...; nothing was kept: try again, and distrust the network if it repeats"
        )
    write_whole(path, lambda stream: stream.write(received))
    return path
