"""Checkpoints of every recipe: tensors and plain JSON in one file, written whole, read so that nothing in it can run.

A file is a dictionary that ``torch.load(weights_only=True)`` reads: ``kind``, ``config``, ``about`` and ``progress``
are JSON texts, ``model``, ``optimiser``, ``average`` and ``scaler`` hold tensors and numbers.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from streamfer.errors import CheckpointError
from streamfer.files import write_whole

LAST = "last.pt"
"""The state that ``--resume`` goes on from, in the folder of a run."""
_TENSORS = ("model", "optimiser", "average", "scaler")


@dataclass(slots=True)
class Progress:
    """How far a run is, and what it has seen: everything a continuation needs beside tensors."""

    epoch: int = 0  #: under way, from 0; the number of epochs when the run is done
    batches: int = 0  #: micro-batches of it that each process has done
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    epochs: int = 0
    #: what was planned before, where the run was made longer, in order
    extended: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds; tensors that were read are on the CPU."""

    recipe: str
    config: dict[str, Any]
    about: dict[str, Any]  #: what the configuration does not say, as the number of the fold; plain values
    progress: Progress
    model: dict[str, torch.Tensor]  #: weights by name: all of them, or those that learn
    optimiser: dict[str, Any] | None = None
    average: dict[str, torch.Tensor] | None = None
    scaler: dict[str, Any] | None = None

    def save(self, path: Path) -> None:
        """Write it as :func:`write_tensors` does."""
        plain = {"config": self.config, "about": self.about, "progress": asdict(self.progress)}
        texts = {name: json.dumps(value) for name, value in plain.items()}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        write_tensors(path, {"kind": _kind(self.recipe), **texts, **tensors})

    @classmethod
    def load(cls, path: Path, recipe: str) -> Checkpoint:
        """Read the checkpoint of a recipe; a CheckpointError where it is absent, cut short or of another recipe."""
        contents = read_checkpoint(path, f"'streamfer train {recipe}'", _kind(recipe))
        with taking_apart(path):
            config, about, progress = (json.loads(contents[name]) for name in ("config", "about", "progress"))
            return cls(recipe, config, about, Progress(**progress), *(contents[name] for name in _TENSORS))


def finished(path: Path, recipe: str, epochs: int) -> bool:
    """Whether a run's last checkpoint is there and has reached so many epochs."""
    return path.exists() and Checkpoint.load(path, recipe).progress.epoch >= epochs


def write_tensors(path: Path, contents: Mapping[str, Any]) -> None:
    """Write what :func:`read_checkpoint` reads; after an OutputError an earlier file of that name is untouched."""

    def write(stream: IO[bytes]) -> None:
        try:
            torch.save(dict(contents), stream)
        except RuntimeError as error:  # so torch reports that its archive could not be written
            raise OSError(str(error).splitlines()[0]) from error

    write_whole(path, write)


def is_checkpoint(path: Path, recipe: str) -> bool:
    """Whether a file is a checkpoint of a recipe (and not, for example, one of its authors')."""
    try:
        read_checkpoint(path, recipe, _kind(recipe), mapped=True)
    except CheckpointError:
        return False
    return True


def read_checkpoint(path: Path, of: str, kind: str | None = None, *, mapped: bool = False) -> dict[str, Any]:
    """Read a dictionary of tensors, on the CPU, and plain values; nothing in it can run.

    Args:
        of: whose checkpoint it should be, for messages, as in "'streamfer train dfer-clip'".
        kind: what its entry ``kind`` must hold; None where checkpoints carry no such entry.

    Raises:
        CheckpointError: absent, cut short, or another program's.
    """
    try:
        if not mapped:
            _check_records(path)
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; train first") from error
    except Exception as error:  # torch has no common exception for damaged files
        raise CheckpointError(f"{path}: not a readable checkpoint; delete it to start anew") from error
    if not isinstance(contents, dict) or (kind is not None and contents.get("kind") != kind):
        raise CheckpointError(f"{path}: not a checkpoint of {of}; choose another file")
    return contents


def _check_records(path: Path) -> None:
    """Compare the checksums of an archive's records, which torch writes and does not read."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"record {damaged}")


@contextlib.contextmanager
def taking_apart(path: Path) -> Iterator[None]:
    """Name the checkpoint whose parts are taken out of it, by a CheckpointError, should one be missing or damaged."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: a part of the checkpoint is missing or damaged ({error})") from error


def _kind(recipe: str) -> str:
    return f"streamfer {recipe} training, format 2"
