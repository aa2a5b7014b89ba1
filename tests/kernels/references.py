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
    causal: bool = False
    lengths: tuple[int, ...] | None = None
    scale: float | None = None

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        extras = ("-causal" if self.causal else "") + (f"-lengths{self.lengths}" if self.lengths else "")
        return f"{self.batch}x{self.heads}-{self.queries}on{self.keys}x{self.head}-{kind}{extras}"

    def key_lengths(self) -> torch.Tensor | None:
        """The lengths on the device."""
        return None if self.lengths is None else torch.tensor(self.lengths, device=DEVICE)

    def inputs(self, seed: int = 0, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random q, k and v that ask for gradients."""
        source = torch.Generator().manual_seed(seed)

        def random(rows: int) -> torch.Tensor:
            shape = (self.batch, self.heads, rows, self.head)
            values = torch.randn(shape, generator=source) * spread
            return values.to(DEVICE, self.dtype).requires_grad_()

        return random(self.queries), random(self.keys), random(self.keys)


def exact_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, lengths: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """Softmax attention by its definition; rows without keys give zeros."""
    logits = q @ k.mT * (scale if scale is not None else q.shape[-1] ** -0.5)
    allowed = torch.ones(logits.shape, dtype=torch.bool, device=q.device)
    if causal:
        allowed = allowed.tril()
    if lengths is not None:
        allowed = allowed & (torch.arange(k.shape[2], device=q.device) < lengths[:, None])[:, None, None]
    highest = torch.where(allowed, logits, -torch.inf).amax(-1, keepdim=True).detach()
    weights = torch.where(allowed, (logits - torch.where(highest.isfinite(), highest, 0)).exp(), 0)
    total = weights.sum(-1, keepdim=True)
    return (weights / torch.where(total == 0, 1, total)) @ v


def exact_results(
    case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, d_out: torch.Tensor
) -> list[torch.Tensor]:
    """Output and gradients in float64."""
    wide = [value.detach().double().requires_grad_() for value in (q, k, v)]
    out = exact_attention(wide[0], wide[1], wide[2], case.causal, case.key_lengths(), case.scale)
    return [out, *torch.autograd.grad(out, wide, d_out.double())]


def relaid(values: torch.Tensor, order: tuple[int, ...], gap: int) -> torch.Tensor:
    """Return the same values in another layout: the first three dimensions in another order, and gaps between rows."""
    permuted = values.detach().permute(*order, 3)
    wide = torch.full((*permuted.shape[:3], values.shape[3] + gap), float("nan"), dtype=values.dtype, device=DEVICE)
    wide[..., : values.shape[3]] = permuted
    back = sorted(range(3), key=lambda place: order[place])
    return wide[..., : values.shape[3]].permute(*back, 3).requires_grad_()
