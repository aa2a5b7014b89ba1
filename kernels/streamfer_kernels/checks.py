"""Arguments that the kernels cannot take, refused by name before any memory is touched."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def dtype_names(dtypes: Sequence[torch.dtype]) -> str:
    """``float32, bfloat16 or float16``."""
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def tensor(
    name: str,
    value: object,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype] = FLOATS,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Return ``value`` if it is such a tensor.

    Args:
        name: what the caller calls it.
        value: anything.
        shape: one entry for each dimension; None takes any size. Only the first, the batch, may be zero.
        dtypes: those that are fine.
        device: where it has to be; None for anywhere.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another shape, a size of zero, or another device.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} is {str(value.dtype).removeprefix('torch.')}; expected {dtype_names(dtypes)}")
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
    return value


def rows_contiguous(name: str, value: torch.Tensor) -> None:
    """Refuse a tensor whose last dimension is not contiguous.

    Raises:
        ValueError: make it contiguous first.
    """
    if value.shape[-1] > 1 and value.stride(-1) != 1:
        raise ValueError(
            f"{name} has stride {value.stride(-1)} in its last dimension; expected 1 (call .contiguous() first)"
        )


def positive(name: str, value: object) -> float:
    """Return ``value`` as a float if it is a finite number above zero.

    Raises:
        TypeError: not an int or a float.
        ValueError: zero, negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a number")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}; expected a positive number")
    return float(value)


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """Return ``value`` if it is an int (or a symbolic one) within low..high.

    Raises:
        TypeError: not an int.
        ValueError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} is a {type(value).__name__}; expected an int")
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; expected {low} to {high}")
    return value  # type: ignore[return-value]
