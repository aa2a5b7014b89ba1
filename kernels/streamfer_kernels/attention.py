"""Attention for the many short sequences of a video pipeline: one function for separate, one for packed inputs.

Beneath each lies an operator of PyTorch, for tracing, torch.compile and CUDA graphs; inference only. Its outputs lie
in memory as (B, N, H, E), so that joining the heads afterwards is free; only where 32 bits could not index a head's
rows in there do they lie as (B, H, N, E).

Shape suffixes: B batch, H heads, N queries, M keys, E head size, C columns of a projection.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

from streamfer_kernels.attention_shapes import LARGEST_INDEX
from streamfer_kernels.backend import Backend, runs_triton

#: Longest sequence and largest head that the kernels take; a head size is a multiple of 8.
LONGEST = 1024
LARGEST_HEAD = 128
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def _joined(like_BHNE: torch.Tensor) -> torch.Tensor:
    batch, heads, rows, head = like_BHNE.shape
    if rows * heads * head > LARGEST_INDEX:
        return like_BHNE.new_empty(batch, heads, rows, head)
    return like_BHNE.new_empty(batch, rows, heads, head).transpose(1, 2)


def _heads_of(packed_BNC: torch.Tensor, heads: int, parts: int) -> list[torch.Tensor]:
    """Views (B, H, N, E) of a packed projection's parts."""
    batch, rows, columns = packed_BNC.shape
    shape = (batch, rows, heads, columns // (parts * heads))
    return [part.view(shape).transpose(1, 2) for part in packed_BNC.chunk(parts, dim=-1)]


@torch.library.custom_op("streamfer_kernels::attention", mutates_args=())
def run_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention by Triton: (B, H, N, E)."""
    from streamfer_kernels.attention_launch import launch

    out = _joined(q)
    launch(q, k, v, out, scale)
    return out


@run_attention.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:  # noqa: ARG001
    return _joined(q)


@torch.library.custom_op("streamfer_kernels::attention_packed", mutates_args=())
def run_packed(qkv: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
    """Attention by Triton within a packed projection (B, N, 3 H E): (B, N, H E)."""
    from streamfer_kernels.attention_launch import launch

    q, k, v = _heads_of(qkv, heads, 3)
    out = qkv.new_empty(qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3)
    launch(q, k, v, _heads_of(out, heads, 1)[0], scale)
    return out


@run_packed.register_fake
def _(qkv: torch.Tensor, heads: int, scale: float) -> torch.Tensor:  # noqa: ARG001
    return qkv.new_empty(qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3)


def supports_head(head: int) -> bool:
    """Whether the kernels take a head size: a multiple of 8, at most LARGEST_HEAD."""
    return head % 8 == 0 and 8 <= head <= LARGEST_HEAD


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None = None, backend: Backend | None = None
) -> torch.Tensor:
    """Return softmax(scale q k^T) v, (B, H, N, E); with Triton it lies in memory as (B, N, H, E).

    Sums are fp32 whatever the dtype. Under autocast the inputs are converted first. Where derivatives are asked for
    PyTorch runs, whatever was forced.

    Args:
        q: (B, H, N, E), fp32, bf16 or fp16; N up to 1,024; any strides with a last one of 1.
        k, v: (B, H, M, E), likewise.
        scale: of the logits; 1 / sqrt(E) if None.
        backend: to force one for this call; None to follow the mode.

    Raises:
        TypeError: an argument of another type or dtype.
        ValueError: a shape, stride, device or number that does not fit.
    """
    _check_tensor("q", q, (None, None, None, None))
    batch, heads, queries, head = q.shape
    _check_number("the length of q", queries, LONGEST)
    _check_head("q", head)
    keys = k.shape[2] if isinstance(k, torch.Tensor) and k.dim() == 4 else None
    kinds = FLOATS if torch.is_autocast_enabled(q.device.type) else (q.dtype,)
    for name, value in (("k", k), ("v", v)):
        _check_tensor(name, value, (batch, heads, keys, head), kinds, q.device)
    _check_number("the length of k", k.shape[2], LONGEST)
    if scale is not None and not 0 < scale < float("inf"):
        raise ValueError(f"scale is {scale}; expected a positive number")
    q, k, v = (_autocast(value) for value in (q, k, v))
    if not batch:
        return q.clone()  # for which PyTorch's own returns None on CUDA
    if runs_triton(q.device, backend) and not _differentiated(q, k, v):
        out: torch.Tensor = run_attention(q, k, v, head**-0.5 if scale is None else scale)
        return out
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def attention_packed(qkv: torch.Tensor, heads: int, *, backend: Backend | None = None) -> torch.Tensor:
    """Return self-attention within a linear layer's own output (B, N, 3 H E), uncopied, scaled by 1 / sqrt(E).

    All heads' queries, then all keys, then all values, as ``in_proj`` of nn.MultiheadAttention and ``to_qkv`` of the
    temporal transformer give them; the result (B, N, H E) is contiguous, ready for the output projection.

    Raises:
        TypeError: an argument of another type or dtype.
        ValueError: a shape, stride, device or number that does not fit.
    """
    _check_tensor("qkv", qkv, (None, None, None))
    batch, rows, columns = qkv.shape
    _check_number("the length of qkv", rows, LONGEST)
    _check_number("the elements of one batch element of qkv", rows * columns, LARGEST_INDEX)
    _check_number("heads", heads, 2**16)
    if columns % (3 * heads):
        raise ValueError(f"qkv has {columns} columns; expected a multiple of 3 x heads = {3 * heads}")
    head = columns // (3 * heads)
    _check_head("qkv", head)
    qkv = _autocast(qkv)
    if not batch:
        return qkv[..., : heads * head].clone()
    if runs_triton(qkv.device, backend) and not _differentiated(qkv):
        out: torch.Tensor = run_packed(qkv, heads, head**-0.5)
        return out
    q, k, v = _heads_of(qkv, heads, 3)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, rows, heads * head)


def _check_head(name: str, head: int) -> None:
    if not supports_head(head):
        raise ValueError(f"{name} has heads of size {head}; expected a multiple of 8, at most {LARGEST_HEAD}")


def _autocast(value: torch.Tensor) -> torch.Tensor:
    kind = value.device.type
    return value.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else value


def _differentiated(*values: torch.Tensor) -> bool:
    """Whether derivatives are asked for, backwards or forwards: the kernels have none, and would lose them unseen."""
    if torch.is_grad_enabled() and any(value.requires_grad for value in values):
        return True
    return not torch.compiler.is_compiling() and any(
        forward_ad.unpack_dual(value).tangent is not None for value in values
    )


def _check_tensor(
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


def _check_number(name: str, value: object, high: int) -> None:
    """Refuse what is no int (or symbolic one, TypeError) from 1 to ``high`` (ValueError)."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} is a {type(value).__name__}; expected an int")
    if not 1 <= value <= high:
        raise ValueError(f"{name} is {value}; expected 1 to {high}")
