"""Checkpoints of a run: tensors and plain JSON in one file, written so that a crash or a full disk costs nothing.

A file is a dictionary that ``torch.load(weights_only=True)`` reads: ``kind``, ``config``, ``sizes`` and ``progress``
are JSON texts, ``model``, ``optimiser``, ``average`` and ``scaler`` hold tensors and numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from streamfer.errors import CheckpointError
from streamfer.models.weights import check_tensors
from streamfer_train.dfer_clip.backbones import Backbone, Sizes
from streamfer_train.dfer_clip.config import RunConfig, parse_config
from streamfer_train.dfer_clip.model import Learner, build_learner
from streamfer_train.recipes.files import read_checkpoint, taking_apart, write_whole

KIND = "streamfer dfer-clip training, format 1"
_OURS = "'streamfer train dfer-clip'"


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
    contents = read_checkpoint(path, _OURS, KIND)
    with taking_apart(path):
        return Checkpoint(
            config=json.loads(contents["config"]),
            sizes=Sizes.from_dict(json.loads(contents["sizes"])),
            progress=Progress(**json.loads(contents["progress"])),
            model=contents["model"],
            optimiser=contents["optimiser"],
            average=contents["average"],
            scaler=contents["scaler"],
        )


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this recipe (and not, for example, one of the authors')."""
    try:
        read_checkpoint(path, _OURS, KIND, mapped=True)
    except CheckpointError:
        return False
    return True


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
