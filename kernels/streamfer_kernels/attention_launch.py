"""From tensors to launches of the attention kernels: strides, alignment, grids.

Shape suffixes: B batch, H heads, N queries, M keys, E head size.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from streamfer_kernels.attention_kernels import long_forward, windows_forward
from streamfer_kernels.attention_shapes import LARGEST_INDEX, Tiles, head_parts, is_short, long_tiles, window_tiles
from streamfer_kernels.backend import interpreting

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


def _constants(like: torch.Tensor, tiles: Tiles, align: int) -> dict[str, Any]:
    first, rest = head_parts(like.shape[-1])
    return {
        "HEAD": like.shape[-1],
        "HEAD_A": first,
        "HEAD_B": rest,
        "ROWS": tiles.rows,
        # Triton's interpreter keeps bf16 as integers and multiplies those; widened to fp32 the products are exact.
        "PRECISION": "widened" if like.dtype == torch.bfloat16 and interpreting() else "ieee",
        "ALIGN": align,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _grid(programs: int) -> tuple[int]:
    if programs > LARGEST_INDEX:
        raise ValueError(f"q has too many rows for one launch ({programs} programs); expected at most {LARGEST_INDEX}")
    return (programs,)


def launch(
    q_BHNE: torch.Tensor, k_BHME: torch.Tensor, v_BHME: torch.Tensor, out_BHNE: torch.Tensor, scale: float
) -> None:
    """Fill ``out_BHNE`` with softmax(scale q k^T) v, on the tensors' device: Triton asks for the current one alone."""
    with torch.cuda.device_of(q_BHNE):
        _launch((indexable(q_BHNE), indexable(k_BHME), indexable(v_BHME), out_BHNE), scale * LOG2_E)


def _launch(parts: tuple[torch.Tensor, ...], scale_log2: float) -> None:
    batch, heads, queries, head = parts[0].shape
    keys, size = parts[1].shape[2], parts[0].element_size()
    strides = [stride for part in parts for stride in strides_of(part)]
    if queries == keys and is_short(queries, head, size):
        tiles = window_tiles(queries, head, size)
        neighbours = batch == 1 or all(part.stride(0) == queries * strides_of(part)[2] for part in parts)
        windows = tiles.windows if neighbours else 1
        windows_forward[_grid(-(-batch // windows) * heads)](
            *parts, *strides, batch, heads, scale_log2,
            TOKENS=queries, WINDOWS=windows, **_constants(parts[0], tiles, alignment(*parts)),
        )  # fmt: skip
        return
    tiles = long_tiles(queries, keys, head, size)
    long_forward[_grid(batch * heads * -(-queries // tiles.rows))](
        *parts, *strides, heads, queries, keys, scale_log2,
        COLUMNS=tiles.columns, TAIL=tiles.tail, **_constants(parts[0], tiles, alignment(*parts)),
    )  # fmt: skip
