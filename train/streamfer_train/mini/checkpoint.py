"""Checkpoints of a training stage: written whole or not at all, read only where they belong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from streamfer.errors import CheckpointError, ConfigError, OutputError


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a crash or a full disk leaves the old one or the new one, never half of one.

    Raises:
        OutputError: it cannot be written; the file at `path`, if any, is the one before.
    """
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a failed write into a RuntimeError.
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot write the checkpoint ({error}); is the disk full?") from error


def load(path: Path, stage: str) -> dict[str, Any]:
    """Read the checkpoint of a stage.

    Raises:
        ConfigError: the stage has not run.
        CheckpointError: the file is damaged.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no checkpoint; run `streamfer train mini {stage}` with the same recipe first")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler and the zip reader raise of every kind
        raise CheckpointError(
            f"{path}: damaged checkpoint ({type(error).__name__}); delete it and run again"
        ) from error
    return state


def check_recipe(stored: Mapping[str, Any], current: Mapping[str, Any], path: Path) -> None:
    """Compare the settings a checkpoint was made with to those that would go on from it.

    Raises:
        CheckpointError: names the first that differs.
    """
    for name, value in stored.items():
        if name in current and current[name] != value:
            raise CheckpointError(
                f"{path}: was made with {name} {value}, the recipe says {current[name]}; "
                "set it back, or choose another work folder"
            )
