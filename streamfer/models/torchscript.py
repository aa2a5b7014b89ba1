"""Tensors out of a TorchScript archive, such as OpenAI's ``ViT-B-32.pt``, without running anything in it.

``torch.jit.load`` compiles and runs the archive's code. Here only its pickle of attributes is read, by an unpickler
that builds tensors and inert modules and refuses every other name; the records of its tensors are taken as bytes.
Source: torch/csrc/jit/serialization (pickler.cpp, import.cpp).
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from streamfer.errors import CheckpointError, UnsafeCheckpointError

_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class _Module:
    """Stands in for whatever class of the archive: its attributes, and none of its code."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is an archive that ``torch.jit.save`` wrote: it holds constants, or code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Return parameters and buffers by name, on the CPU, in their stored types.

    Raises:
        UnsafeCheckpointError: the archive's pickle asks for a name that is neither a tensor's nor its own.
        CheckpointError: damaged, or without tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = _Unpickler(archive, data.removesuffix("data.pkl"), path).load()
    except UnsafeCheckpointError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise CheckpointError(f"{path}: damaged TorchScript archive ({error}); download it again") from error
    tensors = dict(_tensors(root, ""))
    if not tensors:
        raise CheckpointError(f"{path}: a TorchScript archive without any tensor; is it the downloaded file itself?")
    return tensors


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str, path: Path) -> None:
        self._archive, self._root, self._path = archive, root, path
        super().__init__(io.BytesIO(self._read(f"{root}data.pkl")))
        self._storages: dict[str, torch.Tensor] = {}

    def _read(self, name: str) -> bytes:
        """Return a record, which torch never compresses: it would grow to a size that the file's does not hint at."""
        if self._archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"record {name} is compressed")
        return self._archive.read(name)

    def find_class(self, module: str, name: str) -> Any:
        """Return an inert stand-in for what a module may hold; nothing is imported."""
        if module.startswith("__torch__"):
            return _Module
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")):
            return _tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":  # lists that carry the type of what they hold
            return lambda value, *_: value
        raise UnsafeCheckpointError(
            f"{self._path}: the archive asks for {module}.{name}, which is refused because it could run any code; "
            "nothing was run: get the file from its authors again"
        )

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """Return the numbers of one record, flat."""
        _, dtype, key, _, count = pid
        if key not in self._storages:
            folder = next(name for name in (f"{self._root}data/{key}", f"{self._root}tensors/{key}")
                          if name in self._archive.namelist())  # fmt: skip
            contents = bytearray(self._read(folder))
            if len(contents) < count * dtype.itemsize:
                raise ValueError(f"record {key} is cut short")
            self._storages[key] = torch.frombuffer(contents, dtype=dtype, count=count) if count else torch.empty(0)
        return self._storages[key]


def _tensor(storage: Any, offset: int = 0, size: Any = (), stride: Any = (), *_: Any) -> torch.Tensor:
    if isinstance(offset, bool):  # a parameter around a tensor that is there already
        return storage  # type: ignore[no-any-return]
    return storage.as_strided(tuple(size), tuple(stride), offset)  # type: ignore[no-any-return]


def _tensors(module: Any, prefix: str) -> Any:
    for name, value in getattr(module, "attributes", {}).items():
        if isinstance(value, torch.Tensor):
            yield prefix + str(name), value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
