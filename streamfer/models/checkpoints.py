"""Tensors out of other people's checkpoints, from the bytes alone and without running anything in them.

Reads what ``torch.save`` writes since torch 1.6 (a zip archive: ``NAME/data.pkl`` and ``NAME/data/KEY``) and
safetensors. The archive's pickle goes through :class:`streamfer.models.pickles.PickleReader`.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from streamfer.errors import CheckpointError, SourceNotFoundError
from streamfer.models.pickles import PickleReader, TensorRecord

#: A ViT-B/32 checkpoint's pickle has 0.1 MB; with bookkeeping of a long training some more.
_LARGEST_PICKLE = 256 << 20
_ZIP_MAGIC = b"PK\x03\x04"
#: torch.save before 1.6 began with the pickle of this number.
_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")

_DTYPES: dict[str, torch.dtype] = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_T = TypeVar("_T")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARALLEL_PREFIX = "module."


class _Archive:
    """A zip archive of ``torch.save``: storages are read once and shared by the tensors that view them."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._records = {record.filename: record for record in archive.infolist()}
        self._storages: dict[str, torch.Tensor] = {}
        pickles = [name for name in self._records if name.endswith("data.pkl") and name.count("/") <= 1]
        if len(pickles) != 1:
            raise CheckpointError(f"{path}: a zip archive, but not one that torch.save wrote (no data.pkl)")
        self._pickle = pickles[0]
        self._folder = self._pickle.removesuffix("data.pkl")
        order = self._records.get(f"{self._folder}byteorder")
        if order is not None and self._read(order.filename, 16) != b"little":
            raise CheckpointError(f"{path}: written on a big-endian machine; save it again on a common one")

    def _read(self, name: str, limit: int) -> bytes:
        record = self._records.get(name)
        if record is None:
            raise CheckpointError(f"{self._path}: record {name!r} is missing from the archive")
        if record.compress_type != zipfile.ZIP_STORED or record.file_size > limit:
            raise CheckpointError(
                f"{self._path}: record {name!r} is compressed or larger than its tensor; torch.save does neither"
            )
        return self._archive.read(record)

    def contents(self) -> Any:
        """Return the pickled object, tensors as records."""
        return PickleReader(str(self._path)).read(self._read(self._pickle, _LARGEST_PICKLE))

    def tensor(self, name: str, record: TensorRecord) -> torch.Tensor:
        """Materialise one tensor, bounds checked."""
        dtype = _DTYPES.get(record.storage.kind)
        if dtype is None:
            raise CheckpointError(f"{self._path}: tensor {name!r} is stored as {record.storage.kind}; not supported")
        reach = record.offset + sum((n - 1) * s for n, s in zip(record.shape, record.strides, strict=True)) + 1
        if math.prod(record.shape) and reach > record.storage.elements:
            raise CheckpointError(f"{self._path}: tensor {name!r} reaches beyond its storage")
        if math.prod(record.shape) > max(record.storage.elements, 1):
            raise CheckpointError(f"{self._path}: tensor {name!r} repeats its storage; damaged or hostile")
        flat = self._storage(record, dtype)
        return torch.as_strided(flat, record.shape, record.strides, record.offset)

    def _storage(self, record: TensorRecord, dtype: torch.dtype) -> torch.Tensor:
        storage = record.storage
        if storage.key not in self._storages:
            size = storage.elements * dtype.itemsize
            data = self._read(f"{self._folder}data/{storage.key}", size)
            if len(data) != size:
                raise CheckpointError(f"{self._path}: storage {storage.key!r} has {len(data)} bytes; expected {size}")
            self._storages[storage.key] = (
                torch.frombuffer(bytearray(data), dtype=dtype) if size else torch.empty(0, dtype=dtype)
            )
        found = self._storages[storage.key]
        if found.dtype != dtype:
            raise CheckpointError(f"{self._path}: storage {storage.key!r} is used with two types")
        return found


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint: ``torch.save``'s zip format or safetensors.

    The state dictionary may be the object itself or wrapped (``{"epoch": ..., "state_dict": ...}``); the
    prefix ``module.`` of DataParallel is removed where every name has it. Tensors stay in their stored type;
    names that share a storage share it here too. Everything beside the tensors is ignored.

    Raises:
        SourceNotFoundError: no such file.
        UnsafeCheckpointError: the file asks to run something.
        CheckpointError: damaged, or not a checkpoint.
    """
    if _is_zip(path):
        return _read_zip(path)
    return _read_safetensors(path)


def tensor_names(path: Path) -> tuple[str, ...]:
    """Return the names that :func:`read_state_dict` would give, without reading the tensors.

    Raises:
        SourceNotFoundError: no such file.
        UnsafeCheckpointError: the file asks to run something.
        CheckpointError: damaged, or not a checkpoint.
    """
    if not _is_zip(path):
        try:
            with safe_open(path, framework="pt") as stream:
                return tuple(_unprefixed(dict.fromkeys(stream.keys())))
        except SafetensorError as error:
            raise CheckpointError(f"{path}: damaged safetensors file ({error})") from error
    with _opened(path) as archive:
        return tuple(_state_records(path, archive.contents()))


def _is_zip(path: Path) -> bool:
    """Tell torch.save's zip archive (True) from safetensors (False); refuse anything else."""
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such checkpoint file")
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(_ZIP_MAGIC):
        return True
    if _LEGACY_MAGIC in head:
        raise CheckpointError(
            f"{path}: saved in torch's format from before 1.6; load and save it once with a newer torch"
        )
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        _refuse_bare_pickle(path)
    if len(head) > 9 and head[8:9] == b"{":
        return False
    raise CheckpointError(
        f"{path}: not a checkpoint (neither torch.save's zip archive nor safetensors); is it the downloaded file "
        "itself, and complete?"
    )


def _refuse_bare_pickle(path: Path) -> None:
    if path.stat().st_size <= _LARGEST_PICKLE:
        # A hostile pickle should be called by its name rather than by its format.
        PickleReader(str(path)).read(path.read_bytes())
    raise CheckpointError(f"{path}: a bare pickle, not a checkpoint that torch.save wrote")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return _unprefixed(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({error})") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    """Open a zip archive; whatever is wrong with it, then or later, is the checkpoint's error."""
    try:
        with zipfile.ZipFile(path) as opened:
            yield _Archive(path, opened)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: damaged or incomplete checkpoint ({error}); download it again") from error


def _read_zip(path: Path) -> dict[str, torch.Tensor]:
    with _opened(path) as archive:
        records = _state_records(path, archive.contents())
        return {name: archive.tensor(name, record) for name, record in records.items()}


def _state_records(path: Path, contents: Any) -> dict[str, TensorRecord]:
    if isinstance(contents, TensorRecord) or not isinstance(contents, Mapping):
        raise CheckpointError(f"{path}: holds {type(contents).__name__}, not a dictionary of tensors")
    for wrapper in _WRAPPERS:
        if isinstance(contents.get(wrapper), Mapping):
            contents = contents[wrapper]
            break
    records = {
        name: record for name, record in contents.items() if isinstance(name, str) and isinstance(record, TensorRecord)
    }
    if not records:
        raise CheckpointError(f"{path}: no state dictionary in it (looked for tensors and 'state_dict')")
    return _unprefixed(records)


def _unprefixed(tensors: dict[str, _T]) -> dict[str, _T]:
    if all(name.startswith(_PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    return tensors
