"""From tensors to launches of the attention kernels: strides, alignment, grids.

Shape suffixes: B batch, H heads, N queries, M keys, E head size.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from streamfer_kernels import attention_backward as backward_kernels
from streamfer_kernels import attention_forward as forward_kernels
from streamfer_kernels.attention_shapes import (
    LARGEST_INDEX,
    Tiles,
    backward_key_tiles,
    backward_query_tiles,
    forward_tiles,
    head_parts,
    is_short,
    short_tiles,
)
from streamfer_kernels.devices import on_device_of_first
from streamfer_kernels.tiles import precision_of

LOG2_E = math.log2(math.e)


def strides_of(tensor_BHNE: torch.Tensor) -> tuple[int, int, int]:
    """Strides of batch, head and row, zero where there is but one: a stride of 1 would be compiled in."""
    sizes, strides = tensor_BHNE.shape[:3], tensor_BHNE.stride()[:3]
    b, h, n = (0 if size == 1 else stride for size, stride in zip(sizes, strides, strict=True))
    return b, h, n


def alignment(*tensors_BHNE: torch.Tensor) -> int:
    """Largest power of two up to 16 that divides all strides: what vector loads may rely on."""
    return math.gcd(16, *(stride for tensor in tensors_BHNE for stride in strides_of(tensor)))


def indexable(tensor_BHNE: torch.Tensor) -> torch.Tensor:
    """Return the tensor, or a contiguous copy of one that the kernels cannot index.

    Those are: rows of a head that span more than 32 bits; a last stride other than 1; rows one element apart (a
    sliding window), because Triton compiles a stride of 1 in, where no alignment can be promised.
    """
    _, _, rows, head = tensor_BHNE.shape
    apart = strides_of(tensor_BHNE)[2]
    fits = rows * apart + head <= LARGEST_INDEX and tensor_BHNE.stride(3) == 1 and apart != 1
    return tensor_BHNE if fits else tensor_BHNE.contiguous()


def _constants(
    like: torch.Tensor, tiles: Tiles, causal: bool, lengths: torch.Tensor | None, allow_tf32: bool, align: int
) -> dict[str, Any]:
    head = like.shape[-1]
    first, rest = head_parts(head)
    return {
        "HEAD": head,
        "HEAD_A": first,
        "HEAD_B": rest,
        "ROWS": tiles.rows,
        "COLUMNS": tiles.columns,
        "CAUSAL": causal,
        "HAS_LENGTHS": lengths is not None,
        "PRECISION": precision_of(like.dtype, allow_tf32),
        "ALIGN": align,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _grid(programs: int) -> tuple[int]:
    if programs > LARGEST_INDEX:
        raise ValueError(f"q has too many rows for one launch ({programs} programs); expected at most {LARGEST_INDEX}")
    return (programs,)


@on_device_of_first
def launch_forward(
    q_BHNE: torch.Tensor,
    k_BHME: torch.Tensor,
    v_BHME: torch.Tensor,
    out_BHNE: torch.Tensor,
    lengths_B: torch.Tensor | None,
    *,
    causal: bool,
    scale: float,
    allow_tf32: bool,
    keep_lse: bool,
) -> torch.Tensor:
    """Fill ``out_BHNE``; return the log2-sum of each row's weights, fp32 (B, H, N), or an empty tensor.

    The log-sums are kept only where asked for, and never for short sequences, whose gradients do without.
    """
    batch, heads, queries, head = q_BHNE.shape
    keys, size = k_BHME.shape[2], q_BHNE.element_size()
    q_BHNE, k_BHME, v_BHME = indexable(q_BHNE), indexable(k_BHME), indexable(v_BHME)
    parts = (q_BHNE, k_BHME, v_BHME, out_BHNE)
    strides = [stride for part in parts for stride in strides_of(part)]
    # Never read without HAS_LENGTHS, but a pointer must be passed.
    lengths = lengths_B if lengths_B is not None else q_BHNE
    if is_short(queries, keys, head, size):
        tiles = short_tiles(queries, keys, batch * heads, head, size, backward=False)
        constants = _constants(q_BHNE, tiles, causal, lengths_B, allow_tf32, alignment(*parts))
        forward_kernels.short_forward[_grid(-(-batch * heads // tiles.pairs))](
            *parts, lengths, *strides, batch * heads, heads, queries, keys, scale * LOG2_E,
            PAIRS=tiles.pairs, **constants,
        )  # fmt: skip
        return q_BHNE.new_empty(0, dtype=torch.float32)
    lse = q_BHNE.new_empty((batch, heads, queries) if keep_lse else 0, dtype=torch.float32)
    tiles = forward_tiles(queries, keys, head, size, regular=not causal and lengths_B is None)
    constants = _constants(q_BHNE, tiles, causal, lengths_B, allow_tf32, alignment(*parts))
    forward_kernels.long_forward[_grid(batch * heads * -(-queries // tiles.rows))](
        *parts, lse, lengths, *strides, heads, queries, keys, scale * LOG2_E,
        TAIL=tiles.tail, KEEP_LSE=keep_lse, **constants,
    )  # fmt: skip
    return lse


@on_device_of_first
def launch_backward(
    q_BHNE: torch.Tensor,
    k_BHME: torch.Tensor,
    v_BHME: torch.Tensor,
    out_BHNE: torch.Tensor,
    lse_BHN: torch.Tensor,
    d_out_BHNE: torch.Tensor,
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    lengths_B: torch.Tensor | None,
    *,
    causal: bool,
    scale: float,
    allow_tf32: bool,
) -> None:
    """Fill the gradients of q, k and v."""
    batch, heads, queries, head = q_BHNE.shape
    keys, size = k_BHME.shape[2], q_BHNE.element_size()
    q, k, v, out = indexable(q_BHNE), indexable(k_BHME), indexable(v_BHME), indexable(out_BHNE)
    d_out = indexable(d_out_BHNE)
    d_q, d_k, d_v = gradients
    lengths = lengths_B if lengths_B is not None else q

    def strides(*tensors: torch.Tensor) -> list[int]:
        return [stride for tensor in tensors for stride in strides_of(tensor)]

    align = alignment(q, k, v, out, d_out, d_q, d_k, d_v)
    scales = (scale, scale * LOG2_E)
    if is_short(queries, keys, head, size):
        tiles = short_tiles(queries, keys, batch * heads, head, size, backward=True)
        constants = _constants(q_BHNE, tiles, causal, lengths_B, allow_tf32, align)
        backward_kernels.short_backward[_grid(-(-batch * heads // tiles.pairs))](
            q, k, v, d_out, d_q, d_k, d_v, lengths, *strides(q, k, v, d_out, d_q, d_k, d_v),
            batch * heads, heads, queries, keys, *scales, PAIRS=tiles.pairs, **constants,
        )  # fmt: skip
        return
    delta = torch.empty_like(lse_BHN)
    tiles = backward_query_tiles(queries, keys, head, size, regular=not causal and lengths_B is None)
    constants = _constants(q_BHNE, tiles, causal, lengths_B, allow_tf32, align)
    backward_kernels.long_backward_queries[_grid(batch * heads * -(-queries // tiles.rows))](
        q, k, v, out, d_out, d_q, lse_BHN, delta, lengths, *strides(q, k, v, out, d_out, d_q),
        heads, queries, keys, *scales, TAIL=tiles.tail, **constants,
    )  # fmt: skip
    tiles = backward_key_tiles(queries, head, size)
    constants = _constants(q_BHNE, tiles, causal, lengths_B, allow_tf32, align)
    backward_kernels.long_backward_keys[_grid(batch * heads * -(-keys // tiles.columns))](
        q, k, v, d_out, d_k, d_v, lse_BHN, delta, lengths, *strides(q, k, v, d_out, d_k, d_v),
        heads, queries, keys, *scales, TAIL=tiles.tail, **constants,
    )  # fmt: skip
