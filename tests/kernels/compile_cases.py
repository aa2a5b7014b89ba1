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


def forward(*sizes: Any) -> None:
    """What the operator launches."""
    from streamfer_kernels.attention_launch import launch

    q, k, v = tensors(*sizes)
    launch(q, k, v, torch.empty_like(q), 0.125)


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
    for kind, dtype in (("bf16", BF16), ("fp32", FP32)) if everything else (("bf16", BF16),):
        for name, *sizes in SHAPES if everything else SHAPES[:DEFAULT_SHAPES]:
            found[f"{name} {kind}"] = partial(forward, *sizes[:5], dtype, sizes[5])
    return found
