"""The kernels as PyTorch operators: shapes for tracing, torch.compile and CUDA graphs; inference only.

Each operator takes plain tensors and numbers; the choice between backends is made before (``attention.py``).
Outputs lie in memory as (B, N, H, E), so that joining the heads afterwards is free; only where 32 bits could not
index a head's rows in there do they lie as (B, H, N, E).
"""

from __future__ import annotations

import torch

from streamfer_kernels.attention_shapes import LARGEST_INDEX


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
