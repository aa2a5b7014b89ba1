"""Checkpoints of a run: tensors and plain JSON in one file, written so that a crash or a full disk costs nothing.

A file is a dictionary that ``torch.load(weights_only=True)`` reads: ``kind``, ``config``, ``sizes`` and ``progress``
are JSON texts, ``model``, ``optimiser``, ``average`` and ``scaler`` hold tensors and numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from streamfer.errors import CheckpointError, OutputError
from streamfer.models.weights import check_tensors
from streamfer_train.dfer_clip.backbones import Backbone, Sizes
from streamfer_train.dfer_clip.config import RunConfig, first_difference, parse_config
from streamfer_train.dfer_clip.model import Learner, build_learner

KIND = "streamfer dfer-clip training, format 1"


@dataclass(slots=True)
class Progress:
    """How far a run is, and what it has seen: everything a continuation needs beside tensors.

    Attributes:
        fold: number of the fold.
        seed: of the run.
        epoch: epoch under way, from 0; the number of epochs when the run is done.
        batches: micro-batches of it that each process has done.
        step: optimiser steps done in all.
        sums: sums of this epoch's losses over its steps, by name.
        history: scores of finished epochs, in order.
    """

    fold: int
    seed: int
    epoch: int = 0
    batches: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds; tensors are on the CPU."""

    config: dict[str, Any]
    sizes: Sizes
    progress: Progress
    model: dict[str, torch.Tensor]
    optimiser: dict[str, Any] | None = None
    average: dict[str, torch.Tensor] | None = None
    scaler: dict[str, Any] | None = None


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file that is whole and on disk under its name, or not there at all: write, fsync, rename.

    An existing file of that name survives until the new one is complete.

    Raises:
        OutputError: it cannot be written, a full disk included; what was there before is untouched.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    # torch reports a failed write of its archive as RuntimeError.
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        kept = "; the file that was there before is untouched" if path.exists() else ""
        raise OutputError(f"{path}: cannot be written ({reason}); is the disk full?{kept}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Not every file system lets a folder be synchronised; the rename itself is atomic all the same.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small text file as :func:`write_whole` does."""
    write_whole(path, lambda stream: stream.write(text.encode()))


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint.

    Raises:
        OutputError: it cannot be written; an earlier checkpoint of that name is untouched.
    """
    contents = {
        "kind": KIND,
        "config": json.dumps(checkpoint.config),
        "sizes": json.dumps(checkpoint.sizes.to_dict()),
        "progress": json.dumps(checkpoint.progress.to_dict()),
        "model": checkpoint.model,
        "optimiser": checkpoint.optimiser,
        "average": checkpoint.average,
        "scaler": checkpoint.scaler,
    }
    write_whole(path, lambda stream: torch.save(contents, stream))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in it can run.

    Raises:
        CheckpointError: absent, cut short, or not of this recipe.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; train first") from error
    except Exception as error:  # torch has no common exception for damaged files
        raise CheckpointError(f"{path}: not a readable checkpoint; delete it to start anew") from error
    if not isinstance(contents, dict) or contents.get("kind") != KIND:
        raise CheckpointError(f"{path}: not a checkpoint of 'streamfer train dfer-clip'; choose another file")
    try:
        return Checkpoint(
            config=json.loads(contents["config"]),
            sizes=Sizes.from_dict(json.loads(contents["sizes"])),
            progress=Progress(**json.loads(contents["progress"])),
            model=contents["model"],
            optimiser=contents["optimiser"],
            average=contents["average"],
            scaler=contents["scaler"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: a part of the checkpoint is missing or damaged ({error})") from error


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this recipe (and not, for example, one of the authors')."""
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever it is, it is not ours
        return False
    return isinstance(contents, dict) and contents.get("kind") == KIND


def check_same(path: Path, stored: dict[str, Any], config: RunConfig) -> None:
    """Refuse to continue a run under other settings.

    Raises:
        CheckpointError: naming the first setting that differs.
    """
    difference = first_difference(stored, config.model_dump(mode="json"))
    if difference is not None:
        raise CheckpointError(f"{path}: of another configuration: {difference}; restore it, or choose another --out")


def restore_model(learner: Learner, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Load a model's tensors.

    Raises:
        CheckpointError: naming the first tensor that does not fit.
    """
    check_tensors(learner.state_dict(), tensors, where)
    learner.load_state_dict(tensors)


def load_learner(path: Path) -> tuple[Learner, RunConfig, Progress]:
    """Read a trained model from a checkpoint, averaged weights where the run kept them; CPU, evaluation mode.

    Raises:
        CheckpointError: absent, damaged or foreign.
    """
    found = load(path)
    config = parse_config(found.config, str(path))
    learner = build_learner(config, Backbone(found.sizes, {}, (), path.name), seed=0)
    restore_model(learner, found.model, str(path))
    if found.average is not None:
        learner.load_state_dict(found.average, strict=False)
    return learner.requires_grad_(False).eval(), config, found.progress
