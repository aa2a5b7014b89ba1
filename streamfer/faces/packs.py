"""insightface model packs on disk: which of a pack's networks finds faces, which one recognises them."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Literal

from streamfer.errors import CheckpointError, ModelError
from streamfer.extras import needs
from streamfer.faces.registry import DetectorEntry

log = logging.getLogger(__name__)

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
    """Return the network of a pack that does ``task``; without one, or with a wrong manifest, a CheckpointError.

    Raises:
        CheckpointError: the pack has no such network, or its manifest is wrong.
    """
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


def ensure_pack(entry: DetectorEntry) -> Path:
    """Return the folder of a registered pack, downloading it with insightface's own loader when absent.

    A download that fails leaves nothing half-written (ModelError).

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
