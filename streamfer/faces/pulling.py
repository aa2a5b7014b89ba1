"""Where a detector's weights lie, and how they get there: packaged, pulled by digest, or out of insightface's packs."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import ssl
from pathlib import Path
from typing import Any, Literal

import httpx2
import platformdirs

from streamfer.errors import CheckpointError, ModelError
from streamfer.extras import needs
from streamfer.faces.registry import DetectorEntry, builtin_weights, centerface_file
from streamfer.files import sha256_of, write_whole

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0

Task = Literal["detection", "recognition"]

#: File names of the networks in insightface's packs, by what they do.
NAME_STARTS: dict[Task, tuple[str, ...]] = {
    "detection": ("det_", "scrfd_"),
    "recognition": ("w600k_", "glintr", "arcface_", "ms1mv"),
}


def pack_folder(name: str) -> Path:
    """Return where a pack lies or would lie: ``models/NAME`` in INSIGHTFACE_ROOT, or in ``~/.insightface``."""
    return Path(os.environ.get("INSIGHTFACE_ROOT") or "~/.insightface").expanduser() / "models" / name


def pack_file(folder: Path, task: Task) -> Path:
    """Return the network of a pack that does ``task``; without one, or with a wrong manifest, a CheckpointError."""
    if (folder / "manifest.json").is_file():
        return _manifest_file(folder, task)
    # Some archives unpack into a folder of their own name inside the pack's folder (antelopev2 does).
    files = sorted(folder.glob("*.onnx")) + sorted(folder.glob("*/*.onnx"))
    for file in files:
        if file.name.startswith(NAME_STARTS[task]):
            return file
    has = ", ".join(file.name for file in files) or "no .onnx file"
    starts = " or ".join(f"{start}*.onnx" for start in NAME_STARTS[task])
    raise CheckpointError(
        f"{folder}: the pack's {task} network ({starts}) is missing (it holds {has}); "
        "delete the folder and load the pack again"
    )


def present(entry: DetectorEntry) -> Path | None:
    """Return the weights file of a detector when it is on this machine, else ``None``.

    Raises:
        CheckpointError: its pack lacks a detection network, or has a wrong manifest.
    """
    if entry.pack:
        folder = pack_folder(entry.name)
        return pack_file(folder, "detection") if folder.is_dir() else None
    packaged = {"builtin": builtin_weights, "lbp": cascade_file, "centerface": centerface_file}
    path = packaged[entry.name]() if entry.name in packaged else cached(entry)
    return path if path is not None and path.is_file() else None


def cascade_file() -> Path:
    """Return the cascade that scikit-image packages."""
    from skimage import data

    packaged: Any = data  # untyped
    return Path(packaged.lbp_frontal_face_cascade_filename())


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
        transport=transport, follow_redirects=True, timeout=_TIMEOUT_S, verify=ssl.create_default_context()
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


def ensure_pack(entry: DetectorEntry) -> Path:
    """Return the folder of a registered pack, downloading it with insightface's own loader when absent.

    Raises:
        ModelError: the download failed; nothing half-written is left.
    """
    folder = pack_folder(entry.name)
    if folder.is_dir():
        return folder
    with needs("insightface", f"detector {entry.name!r}"):
        from insightface.utils.storage import ensure_available
    log.warning("weights.pull", extra={"detector": entry.name, "by": "insightface", "licence": entry.licence})
    try:
        with contextlib.redirect_stdout(None):
            ensure_available("models", entry.name, root=str(folder.parents[1]))
    except Exception as error:  # requests, zipfile and RuntimeError: insightface's loader raises them all
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".zip").unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"{entry.name}: insightface could not download the pack ({type(error).__name__}: {reason}); connect "
            f"once, or put the pack's files into {folder}, or use detector 'builtin' or 'lbp'"
        ) from error
    return folder


def _manifest_file(folder: Path, task: Task) -> Path:
    with needs("insightface", f"the pack {folder.name!r}"):
        from insightface.model_zoo.package_manifest import load_model_package, verify_model_artifact
    try:
        return Path(verify_model_artifact(load_model_package(folder).task(task)))
    except Exception as error:  # the manifest's reader raises ValueError, KeyError, OSError and more
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{folder}: the pack's manifest does not lead to a whole {task} network ({reason}); "
            "delete the folder and load the pack again"
        ) from error
