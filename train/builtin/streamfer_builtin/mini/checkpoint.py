"""Checkpoints of a training stage: written whole or not at all, read only where they belong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamfer.errors import CheckpointError, ConfigError, StreamferError
from streamfer_train.recipes.checkpoint import read_checkpoint, write_tensors


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a crash or a full disk leaves the old one or the new one, never half of one.

    Raises:
        OutputError: it cannot be written; the file at `path`, if any, is the one before.
    """
    write_tensors(path, state)


#: What every stage writes, and no other program under these names.
STATE = ("average", "recipe", "epoch", "model", "average_steps", "optimizer")


def load(path: Path, stage: str, parts: Sequence[str] = STATE) -> dict[str, Any]:
    """Read the checkpoint of a stage, in which ``parts`` must be.

    Raises:
        ConfigError: the stage has not run.
        CheckpointError: the file is damaged, or another program's.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path}: no checkpoint; run `python -m streamfer_builtin.mini {stage}` with the same recipe first"
        )
    contents = read_checkpoint(path, "the built-in expression model")
    for part in parts:
        if part not in contents:
            raise CheckpointError(
                f"{path}: no checkpoint of this recipe ({part} is missing); choose another work folder"
            )
    return contents


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Name the checkpoint whose weights or state do not fit what they are loaded into, by a CheckpointError."""
    try:
        yield
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, StreamferError):
            raise
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path}: damaged, or of another network ({reason[:160]}); choose another work folder"
        ) from error


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
