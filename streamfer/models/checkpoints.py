"""Tensors out of other people's checkpoints, without running anything in them.

What ``torch.save`` wrote is read by torch's own reader of weights, which builds tensors and plain data and refuses
every other name; safetensors hold nothing but tensors.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from streamfer.errors import CheckpointError, SourceNotFoundError, UnsafeCheckpointError
from streamfer.models.torchscript import is_torchscript, read_torchscript

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARALLEL_PREFIX = "module."


class RecorderMeter:
    """Stands in for bookkeeping of training loops, such as the class of this name in the authors': keeps nothing."""

    def __new__(cls, *_: Any) -> RecorderMeter:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


#: Names that training loops' bookkeeping uses. None is looked up: what stands there becomes a RecorderMeter.
_INERT = (
    "__main__.RecorderMeter",
    "argparse.Namespace",
    "builtins.bytes",
    "builtins.frozenset",
    "builtins.object",
    "copyreg._reconstructor",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{call}" for core in ("core", "_core") for call in ("_reconstruct", "scalar")),
)


class Tensors:
    """Look-ups in a state dictionary that name what is missing, the file, and what it should be (``system``)."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], where: str, system: str) -> None:
        self.tensors, self.where, self._system = tensors, where, system

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Return the shape of a tensor that must have so many dimensions."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.where}: tensor {name!r} is missing; is this a {self._system}, and complete?")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise CheckpointError(f"{self.where}: tensor {name!r} has shape {shape}; expected {dimensions} dimensions")
        return shape

    def side(self, name: str, dimensions: int) -> int:
        """Return how many patches a side has, from embeddings of the positions of all patches and one more."""
        positions = self.shape(name, dimensions)[-2]
        side = math.isqrt(positions - 1)
        if side * side != positions - 1 or not side:
            raise CheckpointError(
                f"{self.where}: tensor {name!r} has {positions} positions; expected a square number of patches and one"
            )
        return side

    def depth(self, prefix: str) -> int:
        """Return how many consecutive numbered parts follow ``prefix``."""
        found = {name.removeprefix(prefix).partition(".")[0] for name in self.tensors if name.startswith(prefix)}
        numbers = {int(number) for number in found if number.isdecimal()}
        depth = next(count for count in range(len(numbers) + 1) if count not in numbers)
        if not depth or depth != len(numbers):
            raise CheckpointError(f"{self.where}: tensor '{prefix}{depth}...' is missing")
        return depth


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint: what ``torch.save`` or ``torch.jit.save`` wrote, or safetensors.

    The state dictionary may be the object itself or wrapped (``{"epoch": ..., "state_dict": ...}``); the
    prefix ``module.`` of DataParallel is removed where every name has it. Tensors stay in their stored type;
    names that share a storage share it here too. Everything beside the tensors is ignored. Numbers are read from
    disk when they are used, so asking for the names alone is cheap.

    Raises:
        SourceNotFoundError: no such file.
        UnsafeCheckpointError: the file asks to run something.
        CheckpointError: damaged, or not a checkpoint.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such checkpoint file; check the path")
    if _is_safetensors(path):
        try:
            return _unprefixed(load_file(path))
        except SafetensorError as error:
            raise CheckpointError(f"{path}: damaged safetensors file ({error}); get it again") from error
    return _unprefixed(_state(path, read_torchscript(path) if is_torchscript(path) else _load(path)))


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(9)
    # Eight bytes of length, then JSON; a pickle begins with its protocol, a zip archive with its name.
    return head[8:] == b"{" and not head.startswith((b"PK", b"\x80"))


def _load(path: Path) -> Any:
    archive = zipfile.is_zipfile(path)
    if archive:
        _check_archive(path)
    try:
        with (
            torch.serialization.safe_globals([(RecorderMeter, name) for name in _INERT]),
            warnings.catch_warnings(action="ignore"),  # unusual pickle protocols are refused in words below
        ):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)|unrecognized function (.+)|object for .+ but got (.+)", str(error))
        name = next(filter(None, refused.groups())) if refused else _first_name(path)
        if name:
            raise UnsafeCheckpointError(
                f"{path}: the file asks to call {name!r}, which is refused because it could run any code; "
                "nothing was run: get the checkpoint from its authors again, or as safetensors"
            ) from None
        raise CheckpointError(
            f"{path}: not a checkpoint (neither what torch.save writes nor safetensors); is it the downloaded file "
            "itself, and complete?"
        ) from error
    except Exception as error:  # whatever damage makes torch raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: damaged or incomplete checkpoint ({reason}); download it again") from error


def _first_name(path: Path) -> str | None:
    """Return the first name that a bare pickle of any protocol would look up; nothing is looked up here."""
    texts: list[str] = []
    with path.open("rb") as stream, contextlib.suppress(ValueError):
        if stream.peek(1)[:1] == b"\x80":
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(texts[-2:])
                if isinstance(argument, str):
                    texts.append(argument)
    return None


def _check_archive(path: Path) -> None:
    """Refuse archives that torch.save did not write: one with compressed records may unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if not any(record.filename.endswith("/data.pkl") for record in records):
        raise CheckpointError(f"{path}: a zip archive, but not one that torch.save wrote (no data.pkl)")
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{path}: record {record.filename!r} is compressed; torch.save does not do that")


def _state(path: Path, contents: Any) -> dict[str, torch.Tensor]:
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"{path}: holds {type(contents).__name__}, not a dictionary of tensors")
    for wrapper in _WRAPPERS:
        if isinstance(contents.get(wrapper), Mapping):
            contents = contents[wrapper]
            break
    tensors = {
        name: value.detach()
        for name, value in contents.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
    }
    if not tensors:
        raise CheckpointError(f"{path}: no state dictionary in it (looked for tensors and 'state_dict')")
    for name, tensor in tensors.items():
        # Used, it would grow to a size that the file's does not hint at.
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: tensor {name!r} repeats its storage; damaged or hostile")
    return tensors


def _unprefixed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if all(name.startswith(_PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    return tensors
