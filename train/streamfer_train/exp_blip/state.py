"""Checkpoints of one step: tensors and plain JSON in one file, written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from streamfer_train.recipes.files import read_checkpoint, taking_apart, write_whole

KIND = "streamfer exp-blip training, format 1"
LAST = "last.pt"


@dataclass(slots=True)
class Progress:
    """How far a step is.

    Attributes:
        epoch: under way, from 0; the number of epochs when the step is done.
        batches: micro-batches of it that each process has done.
        step: optimiser steps done in all.
        sums: sums of this epoch's losses, by name.
        history: means of finished epochs.
    """

    epoch: int = 0
    batches: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class State:
    """What a file holds: only what learns, so a frozen language model costs no disk; tensors are on the CPU."""

    config: dict[str, Any]
    progress: Progress
    model: dict[str, torch.Tensor]
    optimiser: dict[str, Any]


def save(path: Path, state: State) -> None:
    """Write a checkpoint.

    Raises:
        OutputError: it cannot be written; an earlier one of that name is untouched.
    """
    contents = {
        "kind": KIND,
        "config": json.dumps(state.config),
        "progress": json.dumps(asdict(state.progress)),
        "model": state.model,
        "optimiser": state.optimiser,
    }
    write_whole(path, lambda stream: torch.save(contents, stream))


def load(path: Path) -> State:
    """Read a checkpoint; nothing in it can run.

    Raises:
        CheckpointError: absent, cut short, or not of this recipe.
    """
    contents = read_checkpoint(path, "'streamfer train exp-blip' or 'exp-vqa'", KIND)
    with taking_apart(path):
        return State(
            config=json.loads(contents["config"]),
            progress=Progress(**json.loads(contents["progress"])),
            model=contents["model"],
            optimiser=contents["optimiser"],
        )
