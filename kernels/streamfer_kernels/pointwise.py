"""Residual with LayerNorm, QuickGELU and tanh-GELU: one pass over memory each, forward and backward."""
# Fake implementations and set-ups of gradients take all of an operator's arguments.
# ruff: noqa: ARG001

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from streamfer_kernels import checks
from streamfer_kernels.attention_shapes import power_of_two
from streamfer_kernels.backend import choice
from streamfer_kernels.devices import on_device_of_first

#: Longest row of :func:`residual_layer_norm`: it stays in one program's registers.
LONGEST_ROW = 8192
_ELEMENTS = 1024
#: Rows of the weights' partial gradients, summed afterwards: no atomics, equal bits each time.
_PARTIAL_SUMS = 256
Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def residual_layer_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, eps: float = 1e-5
) -> Pair:
    """Return x + residual and its LayerNorm: what a pre-norm block needs between two layers.

    Args:
        x: (..., D), contiguous, fp32, bf16 or fp16; D up to 8,192.
        residual: like x.
        weight: (D,) of the norm, fp32, bf16 or fp16.
        bias: (D,) of the norm, of the weight's dtype.
        eps: added to the variance; above zero.

    Returns:
        Two tensors like x.

    Raises:
        TypeError: an argument of another type or dtype.
        ValueError: a shape, stride, device or number that does not fit.
    """
    eps = checks.positive("eps", eps)
    checks.tensor("x", x, (None,) * max(1, x.dim() if isinstance(x, torch.Tensor) else 1))
    checks.tensor("residual", residual, tuple(x.shape), (x.dtype,), x.device)
    depth = checks.whole_number("the last dimension of x", x.shape[-1], 1, LONGEST_ROW)
    checks.tensor("weight", weight, (depth,), device=x.device)
    checks.tensor("bias", bias, (depth,), (weight.dtype,), x.device)
    for name, value in (("x", x), ("residual", residual), ("weight", weight), ("bias", bias)):
        checks.contiguous(name, value)
    rows = x.numel() // depth
    training = torch.is_grad_enabled() and any(t.requires_grad for t in (x, residual, weight, bias))
    if choice("residual_layer_norm", x.device, x.dtype, training=training, rows=rows, depth=depth).backend == "triton":
        total, normed = _residual_norm(x, residual, weight, bias, eps)
        return total, normed
    total = x + residual
    # Mixed precision as in the kernel: fp32 inside, the input's dtype outside.
    normed = F.layer_norm(total.to(weight.dtype), (depth,), weight, bias, eps).to(x.dtype)
    return total, normed


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """Return x sigmoid(1.702 x), the activation of OpenAI's CLIP.

    Args:
        x: any shape, contiguous, fp32, bf16 or fp16.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: not contiguous, or empty.
    """
    return _activation("quick_gelu", x)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """Return GELU in its tanh approximation, the activation of DFER-CLIP's temporal transformer.

    Args:
        x: any shape, contiguous, fp32, bf16 or fp16.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: not contiguous, or empty.
    """
    return _activation("gelu_tanh", x)


def _activation(name: str, x: torch.Tensor) -> torch.Tensor:
    checks.tensor("x", x, (None,) * (x.dim() if isinstance(x, torch.Tensor) else 0))
    checks.contiguous("x", x)
    quick = name == "quick_gelu"
    training = torch.is_grad_enabled() and x.requires_grad
    if choice(name, x.device, x.dtype, training=training, elements=x.numel()).backend == "triton":
        activated: torch.Tensor = _activate(x, quick)
        return activated
    return x * torch.sigmoid(1.702 * x) if quick else F.gelu(x, approximate="tanh")


@torch.library.custom_op("streamfer_kernels::activate", mutates_args=(), schema="(Tensor x, bool quick) -> Tensor")
@on_device_of_first
def _activate(x: torch.Tensor, quick: bool) -> torch.Tensor:
    from streamfer_kernels import pointwise_kernels

    out = torch.empty_like(x)
    pointwise_kernels.activate[(-(-x.numel() // _ELEMENTS),)](x, out, x.numel(), QUICK=quick, SIZE=_ELEMENTS)
    return out


@_activate.register_fake
def _(x: torch.Tensor, quick: bool) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op(
    "streamfer_kernels::activate_backward", mutates_args=(), schema="(Tensor x, Tensor d_out, bool quick) -> Tensor"
)
@on_device_of_first
def _activate_backward(x: torch.Tensor, d_out: torch.Tensor, quick: bool) -> torch.Tensor:
    from streamfer_kernels import pointwise_kernels

    d_x = torch.empty_like(x)
    pointwise_kernels.activate_backward[(-(-x.numel() // _ELEMENTS),)](
        x, d_out.contiguous(), d_x, x.numel(), QUICK=quick, SIZE=_ELEMENTS
    )
    return d_x


@_activate_backward.register_fake
def _(x: torch.Tensor, d_out: torch.Tensor, quick: bool) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op(
    "streamfer_kernels::residual_layer_norm",
    mutates_args=(),
    schema="(Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
)
@on_device_of_first
def _residual_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> Pair:
    from streamfer_kernels import pointwise_kernels

    depth = x.shape[-1]
    rows, size = x.numel() // depth, power_of_two(depth)
    total, normed = torch.empty_like(x), torch.empty_like(x)
    pointwise_kernels.residual_norm[(rows,)](
        x, residual, weight, bias, total, normed, depth, eps, SIZE=size, num_warps=_warps(size)
    )
    return total, normed


@_residual_norm.register_fake
def _(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> Pair:
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op(
    "streamfer_kernels::residual_layer_norm_backward",
    mutates_args=(),
    schema="(Tensor total, Tensor weight, Tensor d_total, Tensor d_normed, float eps) -> (Tensor, Tensor, Tensor)",
)
@on_device_of_first
def _residual_norm_backward(
    total: torch.Tensor, weight: torch.Tensor, d_total: torch.Tensor, d_normed: torch.Tensor, eps: float
) -> Triple:
    from streamfer_kernels import pointwise_kernels

    depth = total.shape[-1]
    rows, size = total.numel() // depth, power_of_two(depth)
    programs = min(rows, _PARTIAL_SUMS)
    d_x = torch.empty_like(total)
    d_weight, d_bias = total.new_empty(2, programs, depth, dtype=torch.float32)
    pointwise_kernels.residual_norm_backward[(programs,)](
        total, weight, d_total.contiguous(), d_normed.contiguous(), d_x, d_weight, d_bias, rows, depth, eps, programs,
        SIZE=size, num_warps=_warps(size),
    )  # fmt: skip
    return d_x, d_weight.sum(0).to(weight.dtype), d_bias.sum(0).to(weight.dtype)


@_residual_norm_backward.register_fake
def _(total: torch.Tensor, weight: torch.Tensor, d_total: torch.Tensor, d_normed: torch.Tensor, eps: float) -> Triple:
    return torch.empty_like(total), torch.empty_like(weight), torch.empty_like(weight)


def _warps(size: int) -> int:
    return min(16, max(1, size // 256))


def _save_activation(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, ctx.quick = inputs
    ctx.save_for_backward(x)


def _differentiate_activation(ctx: Any, d_out: torch.Tensor) -> tuple[Any, ...]:
    return _activate_backward(ctx.saved_tensors[0], d_out, ctx.quick), None


def _save_norm(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    _, _, weight, _, ctx.eps = inputs
    ctx.save_for_backward(output[0], weight)


def _differentiate_norm(ctx: Any, d_total: torch.Tensor, d_normed: torch.Tensor) -> tuple[Any, ...]:
    d_x, d_weight, d_bias = _residual_norm_backward(*ctx.saved_tensors, d_total, d_normed, ctx.eps)
    # The sum hands one gradient to both; autograd wants tensors of their own.
    return d_x, d_x.clone(), d_weight, d_bias, None


_activate.register_autograd(_differentiate_activation, setup_context=_save_activation)
_residual_norm.register_autograd(_differentiate_norm, setup_context=_save_norm)
