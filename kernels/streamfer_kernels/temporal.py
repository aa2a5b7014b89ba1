"""The pre-norm block of DFER-CLIP's temporal transformer for inference, in five launches.

    LayerNorm + qkv projection | attention | projection + residual | LayerNorm + fc1 + GELU | fc2 + residual

Shape suffixes: B windows, N tokens, D feature size, H heads, E head size, M hidden size of the MLP.
"""
# Fake implementations and set-ups of gradients take all of an operator's arguments.
# ruff: noqa: ARG001

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch.nn import functional as F

from streamfer_kernels import checks
from streamfer_kernels.attention import LONGEST, supports_head, torch_attention
from streamfer_kernels.backend import choice


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Weights of one block, all of one dtype and contiguous; linear layers (out, in) as in nn.Linear.

    Attributes:
        norm1_weight: (D,), of the norm before the attention.
        norm1_bias: (D,).
        qkv_weight: (3 H E, D): queries, keys, values; no bias.
        out_weight: (D, H E).
        out_bias: (D,).
        norm2_weight: (D,), of the norm before the MLP.
        norm2_bias: (D,).
        fc1_weight: (M, D).
        fc1_bias: (M,).
        fc2_weight: (D, M).
        fc2_bias: (D,).
    """

    norm1_weight: torch.Tensor
    norm1_bias: torch.Tensor
    qkv_weight: torch.Tensor
    out_weight: torch.Tensor
    out_bias: torch.Tensor
    norm2_weight: torch.Tensor
    norm2_bias: torch.Tensor
    fc1_weight: torch.Tensor
    fc1_bias: torch.Tensor
    fc2_weight: torch.Tensor
    fc2_bias: torch.Tensor

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in the order of the fields."""
        return [getattr(self, entry.name) for entry in fields(self)]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> BlockWeights:
        """Return a detached, contiguous copy elsewhere or in another dtype."""
        return BlockWeights(*(value.detach().to(device, dtype).contiguous() for value in self.tensors()))


def check_block(weights: BlockWeights, depth: int, heads: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse weights that do not fit each other or the tokens.

    Raises:
        TypeError: not BlockWeights, or a tensor of another dtype.
        ValueError: a shape or device that does not fit.
    """
    if not isinstance(weights, BlockWeights):
        raise TypeError(f"weights is a {type(weights).__name__}; expected BlockWeights")
    inner = checks.tensor("weights.qkv_weight", weights.qkv_weight, (None, depth), (dtype,), device).shape[0]
    checks.whole_number("heads", heads, 1, 2**16)
    if inner % (3 * heads) or not supports_head(inner // (3 * heads)):
        raise ValueError(f"weights.qkv_weight has {inner} rows; expected 3 x {heads} heads x a multiple of 8 up to 128")
    hidden = checks.tensor("weights.fc1_weight", weights.fc1_weight, (None, depth), (dtype,), device).shape[0]
    expected = {"out_weight": (depth, inner // 3), "fc2_weight": (depth, hidden), "fc1_bias": (hidden,)}
    for entry in fields(weights):
        value = getattr(weights, entry.name)
        if entry.name not in ("qkv_weight", "fc1_weight"):
            shape = expected.get(entry.name, (depth,))
            checks.tensor(f"weights.{entry.name}", value, shape, (dtype,), device)
        checks.contiguous(f"weights.{entry.name}", value)


def temporal_block(
    x: torch.Tensor, weights: BlockWeights, heads: int, *, eps: float = 1e-5, first_token_only: bool = False
) -> torch.Tensor:
    """Return the block's output; inference only.

    Args:
        x: (B, N, D), contiguous, fp32, bf16 or fp16; N up to 1,024.
        weights: of the block, of x's dtype and device.
        heads: H.
        eps: of both norms, above zero.
        first_token_only: compute the first token's output alone, (B, D): what a last block owes a class token.
            Every token still serves as key and value.

    Raises:
        TypeError: an argument of another type or dtype.
        ValueError: a shape, stride, device or number that does not fit; gradients asked for.
    """
    eps = checks.positive("eps", eps)
    checks.tensor("x", x, (None, None, None))
    checks.contiguous("x", x)
    checks.whole_number("the length of x", x.shape[1], 1, LONGEST)
    check_block(weights, x.shape[2], heads, x.dtype, x.device)
    named = {entry.name: getattr(weights, entry.name) for entry in fields(weights)}
    checks.no_gradients("temporal_block", x=x, **named)
    windows, tokens, depth = x.shape
    if choice("temporal_block", x.device, x.dtype, windows=windows, tokens=tokens, depth=depth).backend == "triton":
        out: torch.Tensor = _block(x, weights.tensors(), heads, eps, first_token_only)
        return out
    return torch_block(x, weights, heads, eps, first_token_only)


def torch_block(
    x_BND: torch.Tensor, weights: BlockWeights, heads: int, eps: float, first_token_only: bool
) -> torch.Tensor:
    """The same in PyTorch."""
    windows, tokens, depth = x_BND.shape
    normal = F.layer_norm(x_BND, (depth,), weights.norm1_weight, weights.norm1_bias, eps)
    q, k, v = (
        part.view(windows, tokens, heads, -1).transpose(1, 2)
        for part in F.linear(normal, weights.qkv_weight).chunk(3, -1)
    )
    if first_token_only:
        q, x_BND = q[:, :, :1], x_BND[:, :1]
    mixed = torch_attention(q, k, v, False, None, q.shape[-1] ** -0.5, False)
    x_BND = x_BND + F.linear(mixed.transpose(1, 2).flatten(2), weights.out_weight, weights.out_bias)
    normal = F.layer_norm(x_BND, (depth,), weights.norm2_weight, weights.norm2_bias, eps)
    hidden = F.gelu(F.linear(normal, weights.fc1_weight, weights.fc1_bias), approximate="tanh")
    x_BND = x_BND + F.linear(hidden, weights.fc2_weight, weights.fc2_bias)
    return x_BND[:, 0] if first_token_only else x_BND


@torch.library.custom_op(
    "streamfer_kernels::temporal_block",
    mutates_args=(),
    schema="(Tensor x, Tensor[] weights, int heads, float eps, bool first_token_only) -> Tensor",
)
def _block(
    x: torch.Tensor, weights: Sequence[torch.Tensor], heads: int, eps: float, first_token_only: bool
) -> torch.Tensor:
    from streamfer_kernels.temporal_launch import launch_block

    return launch_block(x, BlockWeights(*weights), heads, eps, first_token_only)


@_block.register_fake
def _(x: torch.Tensor, weights: Sequence[torch.Tensor], heads: int, eps: float, first_token_only: bool) -> torch.Tensor:
    return x.new_empty(x.shape[0], x.shape[2]) if first_token_only else torch.empty_like(x)
