"""Arguments that the kernels cannot take, refused by name before any memory is touched."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def tensor(
    name: str,
    value: object,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype] = FLOATS,
    device: torch.device | None = None,
) -> None:
    """Refuse what is no such tensor (TypeError), or has another shape, place or stride (ValueError).

    None in ``shape`` takes any size; only the first, the batch, may be zero; the last stride has to be 1.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor")
    if value.dtype not in dtypes:
        names = ", ".join(map(str, dtypes)).replace("torch.", "")
        raise TypeError(f"{name} is {str(value.dtype).removeprefix('torch.')}; expected {names}")
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    if value.dim() != len(shape):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {len(shape)} dimensions ({wanted})")
    for found, size in zip(value.shape, shape, strict=True):
        if size is not None and found != size:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected ({wanted})")
    if 0 in value.shape[1:]:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected no dimension of size zero but the batch")
    if device is not None and value.device != device:
        raise ValueError(f"{name} is on {value.device}; expected {device}, where the other tensors are")
    if value.shape[-1] > 1 and value.stride(-1) != 1:
        raise ValueError(f"{name} has stride {value.stride(-1)} in its last dimension; call .contiguous() first")


def number(name: str, value: object, high: int) -> None:
    """Refuse what is no int (or symbolic one, TypeError) from 1 to ``high`` (ValueError)."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} is a {type(value).__name__}; expected an int")
    if not 1 <= value <= high:
        raise ValueError(f"{name} is {value}; expected 1 to {high}")
