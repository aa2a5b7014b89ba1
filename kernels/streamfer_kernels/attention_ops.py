"""The attention kernels as PyTorch operators: shapes for tracing, gradients, torch.compile and CUDA graphs.

Each operator takes plain tensors and numbers; the choice between backends is made before (``attention.py``).
Outputs lie in memory as (B, N, H, E), so that joining the heads afterwards is free; only where 32 bits could not
index a head's rows in there do they lie as (B, H, N, E).
"""
# Fake implementations and set-ups of gradients take all of an operator's arguments.
# ruff: noqa: ARG001

from __future__ import annotations

from typing import Any

import torch

from streamfer_kernels.attention_shapes import LARGEST_INDEX, is_short

Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_OPTIONS = "Tensor? key_lengths, bool causal, float scale, bool allow_tf32"


def _joined(like_BHNE: torch.Tensor) -> torch.Tensor:
    batch, heads, rows, head = like_BHNE.shape
    if rows * heads * head > LARGEST_INDEX:
        return like_BHNE.new_empty(batch, heads, rows, head)
    return like_BHNE.new_empty(batch, rows, heads, head).transpose(1, 2)


def _log_sums(
    batch: int, heads: int, queries: int, keys: int, head: int, like: torch.Tensor, keep: bool
) -> torch.Tensor:
    shape = (batch, heads, queries) if keep and not is_short(queries, keys, head, like.element_size()) else (0,)
    return like.new_empty(shape, dtype=torch.float32)


def _heads_of(packed_BNC: torch.Tensor, heads: int, parts: int) -> list[torch.Tensor]:
    """Views (B, H, N, E) of a packed projection's parts."""
    batch, rows, columns = packed_BNC.shape
    shape = (batch, rows, heads, columns // (parts * heads))
    return [part.view(shape).transpose(1, 2) for part in packed_BNC.chunk(parts, dim=-1)]


@torch.library.custom_op(
    "streamfer_kernels::attention",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {_OPTIONS}, bool keep_lse) -> (Tensor, Tensor)",
)
def attention_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_lengths: torch.Tensor | None,
    causal: bool,
    scale: float,
    allow_tf32: bool,
    keep_lse: bool,
) -> Pair:
    """Attention by Triton: output (B, H, N, E), and log2-sums (B, H, N) where a backward pass will need them."""
    from streamfer_kernels.attention_launch import launch_forward

    out = _joined(q)
    lse = launch_forward(
        q, k, v, out, key_lengths, causal=causal, scale=scale, allow_tf32=allow_tf32, keep_lse=keep_lse
    )
    return out, lse


@attention_forward.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_lengths: Any, causal: bool, scale: float, allow_tf32: bool,
    keep_lse: bool,
) -> Pair:  # fmt: skip
    batch, heads, queries, head = q.shape
    return _joined(q), _log_sums(batch, heads, queries, k.shape[2], head, q, keep_lse)


@torch.library.custom_op(
    "streamfer_kernels::attention_backward",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor d_out, {_OPTIONS}) "
    "-> (Tensor, Tensor, Tensor)",
)
def attention_backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    d_out: torch.Tensor,
    key_lengths: torch.Tensor | None,
    causal: bool,
    scale: float,
    allow_tf32: bool,
) -> Triple:
    """Gradients of q, k and v by Triton, laid out as (B, N, H, E)."""
    from streamfer_kernels.attention_launch import launch_backward

    gradients = (_joined(q), _joined(k), _joined(v))
    launch_backward(q, k, v, out, lse, d_out, gradients, key_lengths, causal=causal, scale=scale, allow_tf32=allow_tf32)
    return gradients


@attention_backward.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, d_out: torch.Tensor,
    key_lengths: Any, causal: bool, scale: float, allow_tf32: bool,
) -> Triple:  # fmt: skip
    return _joined(q), _joined(k), _joined(v)


@torch.library.custom_op(
    "streamfer_kernels::attention_packed",
    mutates_args=(),
    schema=f"(Tensor qkv, int heads, {_OPTIONS}, bool keep_lse) -> (Tensor, Tensor)",
)
def packed_forward(
    qkv: torch.Tensor,
    heads: int,
    key_lengths: torch.Tensor | None,
    causal: bool,
    scale: float,
    allow_tf32: bool,
    keep_lse: bool,
) -> Pair:
    """Attention by Triton within a packed projection (B, N, 3 H E): output (B, N, H E) and log2-sums."""
    from streamfer_kernels.attention_launch import launch_forward

    q, k, v = _heads_of(qkv, heads, 3)
    out = qkv.new_empty(qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3)
    lse = launch_forward(
        q, k, v, _heads_of(out, heads, 1)[0], key_lengths,
        causal=causal, scale=scale, allow_tf32=allow_tf32, keep_lse=keep_lse,
    )  # fmt: skip
    return out, lse


@packed_forward.register_fake
def _(
    qkv: torch.Tensor, heads: int, key_lengths: Any, causal: bool, scale: float, allow_tf32: bool, keep_lse: bool
) -> Pair:
    batch, rows, columns = qkv.shape
    return qkv.new_empty(batch, rows, columns // 3), _log_sums(
        batch, heads, rows, rows, columns // (3 * heads), qkv, keep_lse
    )


@torch.library.custom_op(
    "streamfer_kernels::attention_packed_backward",
    mutates_args=(),
    schema=f"(Tensor qkv, Tensor out, Tensor lse, Tensor d_out, int heads, {_OPTIONS}) -> Tensor",
)
def packed_backward(
    qkv: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    d_out: torch.Tensor,
    heads: int,
    key_lengths: torch.Tensor | None,
    causal: bool,
    scale: float,
    allow_tf32: bool,
) -> torch.Tensor:
    """Gradient of the packed projection by Triton, contiguous (B, N, 3 H E)."""
    from streamfer_kernels.attention_launch import launch_backward

    d_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    d_out = d_out if d_out.stride(-1) == 1 else d_out.contiguous()
    q, k, v = _heads_of(qkv, heads, 3)
    d_q, d_k, d_v = _heads_of(d_qkv, heads, 3)
    launch_backward(
        q, k, v, _heads_of(out, heads, 1)[0], lse, _heads_of(d_out, heads, 1)[0], (d_q, d_k, d_v), key_lengths,
        causal=causal, scale=scale, allow_tf32=allow_tf32,
    )  # fmt: skip
    return d_qkv


@packed_backward.register_fake
def _(
    qkv: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, d_out: torch.Tensor, heads: int, key_lengths: Any,
    causal: bool, scale: float, allow_tf32: bool,
) -> torch.Tensor:  # fmt: skip
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _refuse(keep_lse: bool) -> None:
    if not keep_lse:
        raise ValueError("keep_lse is False; expected True where gradients are asked for")


def _save(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    q, k, v, key_lengths, ctx.causal, ctx.scale, ctx.allow_tf32, ctx.keep_lse = inputs
    ctx.save_for_backward(q, k, v, *output, key_lengths)


def _differentiate(ctx: Any, d_out: torch.Tensor, _: Any) -> tuple[Any, ...]:
    _refuse(ctx.keep_lse)
    q, k, v, out, lse, key_lengths = ctx.saved_tensors
    gradients = attention_backward(q, k, v, out, lse, d_out, key_lengths, ctx.causal, ctx.scale, ctx.allow_tf32)
    return (*gradients, None, None, None, None, None)


def _save_packed(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    qkv, ctx.heads, key_lengths, ctx.causal, ctx.scale, ctx.allow_tf32, ctx.keep_lse = inputs
    ctx.save_for_backward(qkv, *output, key_lengths)


def _differentiate_packed(ctx: Any, d_out: torch.Tensor, _: Any) -> tuple[Any, ...]:
    _refuse(ctx.keep_lse)
    qkv, out, lse, key_lengths = ctx.saved_tensors
    d_qkv = packed_backward(qkv, out, lse, d_out, ctx.heads, key_lengths, ctx.causal, ctx.scale, ctx.allow_tf32)
    return d_qkv, None, None, None, None, None, None


attention_forward.register_autograd(_differentiate, setup_context=_save)
packed_forward.register_autograd(_differentiate_packed, setup_context=_save_packed)
