"""Whether the kernels may be trusted on the machine at hand: a first launch, and a comparison with float64."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional as F

from streamfer_kernels.backend import interpreting, obstacle

#: Seeds of a self-test; each draws other logits.
SEEDS = (0, 1, 2)
#: Errors below this are rounding, however small PyTorch's own is.
FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Shape:
    """Self-attention as a model runs it."""

    tokens: int
    heads: int
    head: int  #: size of one
    dtype: torch.dtype  #: of the projection


@cache
def preflight(device: torch.device) -> str | None:
    """Compile and launch the smallest case; return why Triton cannot run on a device, or None.

    This is where a missing C compiler, a driver that is too old, or a foreign Triton shows.
    """
    hindrance = obstacle(device)
    if hindrance is not None:
        return hindrance
    return _told(device, Shape(3, 1, 16, torch.float32), 0, "the first launch")


def self_test(device: torch.device, shapes: Sequence[Shape], seeds: Sequence[int] = SEEDS) -> str | None:
    """Run shapes on random input; return what was wrong first, or None.

    Right is: every element written, an error to float64 at most twice PyTorch's own, and the same bits twice. A shape
    that does not compile or launch (too little shared memory, an old driver) is wrong, too.
    """
    for shape in shapes:
        kind = str(shape.dtype).removeprefix("torch.")
        for seed in seeds:
            told = _told(device, shape, seed, "its launch")
            if told is not None:
                return f"{shape.tokens} tokens, {shape.heads} heads of {shape.head}, {kind}: {told}"
    return None


def _told(device: torch.device, shape: Shape, seed: int, launch: str) -> str | None:
    """Return what was wrong with a shape, a failed launch included: PyTorch serves, whatever a compiler raises."""
    try:
        return _wrong(device, shape, seed)
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        return f"{launch} failed ({type(error).__name__}: {said[0][:200]})"


def _wrong(device: torch.device, shape: Shape, seed: int) -> str | None:
    from streamfer_kernels.attention_launch import launch

    source = torch.Generator().manual_seed(seed)
    columns = 3 * shape.heads * shape.head
    qkv = torch.randn(7, shape.tokens, columns, generator=source).mul_(2).to(device, shape.dtype)
    q, k, v = (part.unflatten(-1, (shape.heads, shape.head)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    exact = F.scaled_dot_product_attention(q.double().cpu(), k.double().cpu(), v.double().cpu())
    found = []
    for _ in range(2):
        out = torch.full((7, shape.tokens, columns // 3), float("nan"), dtype=shape.dtype, device=device)
        launch(q, k, v, out.unflatten(-1, (shape.heads, shape.head)).transpose(1, 2), shape.head**-0.5)
        found.append(out)
    if not torch.equal(found[0], found[1]):
        return "two runs differ, or elements were not written"
    joined = exact.transpose(1, 2).flatten(2)
    own = _error(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), joined)
    ours = _error(found[0], joined)
    # The interpreter truncates to bf16 where a GPU rounds to nearest.
    if not ours <= max((3 if interpreting() else 2) * own, FLOOR):
        return f"relative error {ours:.1e}, PyTorch's is {own:.1e}"
    return None


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double().cpu() - exact).norm() / exact.norm())


@cache
def source_digest() -> str:
    """Return the sha256 of this package's own source files, hex: a measurement is valid for these alone."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()
