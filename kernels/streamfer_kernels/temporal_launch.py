"""Launches of the temporal block and of the label head's two ends.

Shape suffixes: R rows, B windows, N tokens, D feature size.
"""

from __future__ import annotations

import torch

from streamfer_kernels import temporal_kernels
from streamfer_kernels.attention_launch import LOG2_E, launch_forward
from streamfer_kernels.attention_shapes import power_of_two
from streamfer_kernels.devices import on_device_of_first
from streamfer_kernels.temporal import BlockWeights
from streamfer_kernels.tiles import precision_of


def linear_tiles(rows: int, columns: int, element_size: int) -> tuple[int, int, int, int]:
    """Return rows, columns and depth step of a tile, and warps.

    With few rows the weights are what must be read: many narrow programs read them side by side. With many rows
    the tiles grow to what keeps the tensor cores busy.
    """
    if element_size == 4:
        return (16, 32, 32, 4) if rows <= 64 else (32, 32, 32, 4)
    if rows <= 16:
        return 16, 16, 128, 4
    if rows <= 64:
        return 32, 32, 128, 4
    if rows * columns <= 132 * 64 * 64:
        return 32, 64, 64, 4
    return 64, 128, 64, 4


@on_device_of_first
def launch_linear(
    x_RD: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    norm: tuple[torch.Tensor, torch.Tensor] | None = None,
    residual_RD: torch.Tensor | None = None,
    gelu: bool = False,
    eps: float = 0.0,
) -> torch.Tensor:
    """Return residual + gelu(norm(x) weight^T + bias); rows may lie any distance apart."""
    rows, depth = x_RD.shape
    columns = weight.shape[0]
    out = x_RD.new_empty(rows, columns)
    tile_rows, tile_columns, step, warps = linear_tiles(rows, columns, x_RD.element_size())
    norm_weight, norm_bias = norm if norm is not None else (weight, weight)
    grid = -(-rows // tile_rows) * -(-columns // tile_columns)
    temporal_kernels.linear[(grid,)](
        x_RD, weight, bias if bias is not None else weight, norm_weight, norm_bias,
        residual_RD if residual_RD is not None else x_RD, out, rows, columns, x_RD.stride(0),
        residual_RD.stride(0) if residual_RD is not None else 0, eps,
        DEPTH=depth, ROWS=tile_rows, COLUMNS=tile_columns, STEP=step, NORM=norm is not None, BIAS=bias is not None,
        GELU=gelu, RESIDUAL=residual_RD is not None, PRECISION=precision_of(x_RD.dtype, False),
        num_warps=warps, num_stages=3 if x_RD.element_size() == 2 else 1,
    )  # fmt: skip
    return out


def launch_block(
    x_BND: torch.Tensor, weights: BlockWeights, heads: int, eps: float, first_token_only: bool
) -> torch.Tensor:
    """Return the block's output (B, N, D), or the first token's (B, D)."""
    windows, tokens, depth = x_BND.shape
    flat_RD = x_BND.view(windows * tokens, depth)
    packed = launch_linear(flat_RD, weights.qkv_weight, norm=(weights.norm1_weight, weights.norm1_bias), eps=eps)
    q, k, v = packed.view(windows, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    if first_token_only:
        q, flat_RD = q[:, :, :1], x_BND[:, 0]
    rows, head = q.shape[2], q.shape[3]
    mixed = x_BND.new_empty(windows, rows, heads, head)
    launch_forward(
        q, k, v, mixed.transpose(1, 2), None, causal=False, scale=head**-0.5, allow_tf32=False, keep_lse=False
    )
    mixed_RD = mixed.view(windows * rows, heads * head)
    flat_RD = launch_linear(mixed_RD, weights.out_weight, bias=weights.out_bias, residual_RD=flat_RD)
    norm = (weights.norm2_weight, weights.norm2_bias)
    hidden = launch_linear(flat_RD, weights.fc1_weight, bias=weights.fc1_bias, norm=norm, gelu=True, eps=eps)
    flat_RD = launch_linear(hidden, weights.fc2_weight, bias=weights.fc2_bias, residual_RD=flat_RD)
    return flat_RD if first_token_only else flat_RD.view(windows, tokens, depth)


@on_device_of_first
def launch_gather(
    ring_RD: torch.Tensor, indices_BT: torch.Tensor, class_token_D: torch.Tensor, positions_ND: torch.Tensor
) -> torch.Tensor:
    """Return tokens (B, N, D): class token and gathered rows of the ring, each with its position."""
    windows, frames = indices_BT.shape
    depth = ring_RD.shape[1]
    out = positions_ND.new_empty(windows, frames + 1, depth)
    size = power_of_two(depth)
    temporal_kernels.gather_tokens[(windows * (frames + 1),)](
        ring_RD, indices_BT, class_token_D, positions_ND, out, ring_RD.shape[0], ring_RD.stride(0), depth,
        TOKENS=frames + 1, SIZE=size, num_warps=min(8, max(1, size // 256)),
    )  # fmt: skip
    return out


@on_device_of_first
def launch_cosine_softmax(clips_BD: torch.Tensor, classes_CD: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return probabilities (B, C), fp32."""
    windows, depth = clips_BD.shape
    count = classes_CD.shape[0]
    out = torch.empty(windows, count, dtype=torch.float32, device=clips_BD.device)
    padded = max(2, power_of_two(count))
    temporal_kernels.cosine_softmax[(windows,)](
        clips_BD, classes_CD, out, depth, count, LOG2_E / temperature,
        COUNT=padded, STEP=min(power_of_two(depth), max(16, 4096 // padded)), num_warps=4,
    )  # fmt: skip
    return out
