"""Attention in float64 by its definition, errors, and tensors of any layout."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1" else "cpu")
#: Relative errors (Frobenius norm) to float64 that rounding of inputs, weights and outputs explains. The
#: interpreter truncates where a GPU rounds to nearest.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.2e-2, torch.float16: 1.5e-3}


def error(found: torch.Tensor, expected: torch.Tensor, floor: float = 1e-30) -> float:
    """Return |found - expected| over |expected|, or over ``floor`` where that is larger; NaN if anything is NaN."""
    difference = (found.detach().double() - expected.detach().double()).norm()
    return float(difference / expected.detach().double().norm().clamp(min=floor))


@dataclass(frozen=True, slots=True)
class Case:
    """One attention problem."""

    batch: int
    heads: int
    queries: int
    keys: int
    head: int
    dtype: torch.dtype = torch.float32
    scale: float | None = None

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.batch}x{self.heads}-{self.queries}on{self.keys}x{self.head}-{kind}"

    def inputs(self, seed: int = 0, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random q, k and v."""
        source = torch.Generator().manual_seed(seed)

        def random(rows: int) -> torch.Tensor:
            shape = (self.batch, self.heads, rows, self.head)
            return (torch.randn(shape, generator=source) * spread).to(DEVICE, self.dtype)

        return random(self.queries), random(self.keys), random(self.keys)


def exact_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """Softmax attention by its definition, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    logits = q @ k.mT * (scale if scale is not None else q.shape[-1] ** -0.5)
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return (weights / weights.sum(-1, keepdim=True)) @ v


def relaid(values: torch.Tensor, order: tuple[int, ...], gap: int) -> torch.Tensor:
    """Return the same values in another layout: the first three dimensions in another order, and gaps between rows."""
    permuted = values.permute(*order, 3)
    wide = torch.full((*permuted.shape[:3], values.shape[3] + gap), float("nan"), dtype=values.dtype, device=DEVICE)
    wide[..., : values.shape[3]] = permuted
    back = sorted(range(3), key=lambda place: order[place])
    return wide[..., : values.shape[3]].permute(*back, 3)
