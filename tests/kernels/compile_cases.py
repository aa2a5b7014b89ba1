"""The launches of the issue's shapes, on meta tensors: what :mod:`compile_report` compiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

Cases = dict[str, Callable[[], Any]]
META = torch.device("meta")


def tensors(
    batch: int, heads: int, queries: int, keys: int, head: int, dtype: torch.dtype, packed: bool
) -> tuple[torch.Tensor, ...]:
    """q, k and v (B, H, N, E), as a packed projection gives them or each on its own."""
    if packed:
        qkv = torch.empty(batch, queries, 3, heads, head, dtype=dtype, device=META)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v
    q = torch.empty(batch, queries, heads, head, dtype=dtype, device=META).transpose(1, 2)
    k, v = (torch.empty(batch, keys, heads, head, dtype=dtype, device=META).transpose(1, 2) for _ in range(2))
    return q, k, v


def forward(
    *sizes: Any, causal: bool = False, lengths: bool = False, keep_lse: bool = False, allow_tf32: bool = False
) -> None:
    """What the forward operator launches."""
    from streamfer_kernels.attention_launch import launch_forward

    q, k, v = tensors(*sizes)
    key_lengths = torch.empty(q.shape[0], dtype=torch.int32, device=META) if lengths else None
    out = torch.empty_like(q)
    launch_forward(q, k, v, out, key_lengths, causal=causal, scale=0.125, allow_tf32=allow_tf32, keep_lse=keep_lse)


def backward(*sizes: Any, causal: bool = False, lengths: bool = False, allow_tf32: bool = False) -> None:
    """What the backward operator launches."""
    from streamfer_kernels.attention_launch import launch_backward

    q, k, v = tensors(*sizes)
    key_lengths = torch.empty(q.shape[0], dtype=torch.int32, device=META) if lengths else None
    lse = torch.empty(q.shape[:3], device=META)
    out, d_out = torch.empty_like(q), torch.empty_like(q)
    launch_backward(
        q, k, v, out, lse, d_out, (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)), key_lengths,
        causal=causal, scale=0.125, allow_tf32=allow_tf32,
    )  # fmt: skip


def block(windows: int, dtype: torch.dtype) -> None:
    """The published temporal block on ring features: gather, block, probabilities."""
    from streamfer_kernels import BlockWeights
    from streamfer_kernels.temporal_launch import launch_block, launch_cosine_softmax, launch_gather

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device=META)

    row, wide = empty(512), empty(1024)
    weights = BlockWeights(
        row, row, empty(1536, 512), empty(512, 512), row, row, row, empty(1024, 512), wide, empty(512, 1024), row
    )
    indices = torch.empty(windows, 16, dtype=torch.int64, device=META)
    x = launch_gather(torch.empty(4096, 512, device=META), indices, row, empty(17, 512))
    clips = launch_block(x, weights, 8, 1e-5, first_token_only=True)
    launch_cosine_softmax(clips, torch.empty(7, 512, device=META), 0.01)


def crops(planar: bool) -> None:
    """64 faces of 224 pixels out of 1080p frames."""
    from streamfer_kernels.crops import launch_crop

    frames = torch.empty((8, 1620, 1920) if planar else (8, 1080, 1920, 3), dtype=torch.uint8, device=META)
    chroma = frames[:, 1080:] if planar else None
    matrices, index = torch.empty(64, 2, 3, device=META), torch.empty(64, dtype=torch.int64, device=META)
    constants = [0.5] * 8
    launch_crop(frames, chroma, matrices, index, 224, constants, [0.1] * 3, [0.2] * 3, torch.bfloat16)


def pointwise(dtype: torch.dtype) -> None:
    """Everything of ``pointwise.py``; on the CPU, since an operator does not run on meta tensors."""
    operators = torch.ops.streamfer_kernels
    x, row = torch.empty(64, 768, dtype=dtype), torch.empty(768)
    for quick in (True, False):
        operators.activate(x, quick)
        operators.activate_backward(x, x, quick)
    operators.residual_layer_norm(x, x, row, row, 1e-5)
    operators.residual_layer_norm_backward(x, row, x, x, 1e-5)


#: Name, batch, heads, queries, keys, head size, packed; the first ones are the default tests'.
SHAPES = (
    ("temporal 17x64", 4096, 8, 17, 17, 64, True),
    ("ViT-B/32 50x64", 1024, 12, 50, 50, 64, True),
    ("EVA-G 257x88", 64, 16, 257, 257, 88, True),
    ("ViT-B/16 197x64", 64, 12, 197, 197, 64, True),
    ("ViT-L/14 257x64", 64, 16, 257, 257, 64, True),
    ("Q-Former 32 on 257x64", 64, 12, 32, 257, 64, False),
    ("17x32", 4096, 8, 17, 17, 32, True),
    ("50x80", 1024, 12, 50, 50, 80, True),
    ("50x128", 1024, 12, 50, 50, 128, True),
    ("257x80", 64, 16, 257, 257, 80, True),
    ("257x96", 64, 16, 257, 257, 96, True),
    ("257x128", 64, 16, 257, 257, 128, True),
    ("1024x64", 8, 16, 1024, 1024, 64, True),
    ("1024x128", 8, 16, 1024, 1024, 128, True),
)
DEFAULT_SHAPES = 3
BF16, FP32 = torch.bfloat16, torch.float32


def cases(*, everything: bool) -> Cases:
    """Names and calls; without ``everything`` only the few that the default tests compile."""
    found: Cases = {}
    for name, *sizes in SHAPES if everything else SHAPES[:DEFAULT_SHAPES]:
        whole: tuple[Any, ...] = (*sizes[:5], BF16, sizes[5])
        found[f"{name} bf16 forward"] = partial(forward, *whole, keep_lse=True)
        found[f"{name} bf16 backward"] = partial(backward, *whole)
    found["label head, 256 windows, bf16"] = partial(block, 256, BF16)
    found["crops NV12"] = partial(crops, True)
    if everything:
        found["label head, 1 window, bf16"] = partial(block, 1, BF16)
        found["label head, 256 windows, fp32"] = partial(block, 256, FP32)
        found["crops RGB"] = partial(crops, False)
        found["pointwise bf16"] = partial(pointwise, BF16)
        for name, *sizes in SHAPES:
            whole = (*sizes[:5], FP32, sizes[5])
            found[f"{name} fp32 forward"] = partial(forward, *whole)
            found[f"{name} fp32 backward"] = partial(backward, *whole)
            found[f"{name} tf32 forward"] = partial(forward, *whole, allow_tf32=True, keep_lse=True)
            found[f"{name} tf32 backward"] = partial(backward, *whole, allow_tf32=True)
        for name, *sizes in SHAPES[:5]:
            whole = (*sizes[:5], BF16, sizes[5])
            found[f"{name} causal lengths forward"] = partial(forward, *whole, causal=True, lengths=True)
            found[f"{name} causal lengths backward"] = partial(backward, *whole, causal=True, lengths=True)
    return found
