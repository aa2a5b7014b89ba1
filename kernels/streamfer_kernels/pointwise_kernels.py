"""Triton kernels of the steps between matrix products: residual with LayerNorm, and both GELUs of CLIP.

Both activations are x sigmoid(g(x)): QuickGELU with g = 1.702 x, and the tanh approximation of GELU with
g = 2 sqrt(2 / pi) (x + 0.044715 x^3), because (1 + tanh z) / 2 = sigmoid(2 z).
"""
# Kernels are typed by Triton, whose decorator and tensors mypy cannot see.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gate(x, QUICK: tl.constexpr):
    """Return sigmoid(g(x)) and g'(x), fp32."""
    if QUICK:
        inner, slope = 1.702 * x, tl.full(x.shape, 1.702, tl.float32)
    else:
        inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)
        slope = 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    return 1.0 / (1.0 + tl.exp2(-1.4426950408889634 * inner)), slope


@triton.jit
def activate(x, out, count, QUICK: tl.constexpr, SIZE: tl.constexpr):
    """SIZE values of x sigmoid(g(x))."""
    places = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    value = tl.load(x + places, mask=places < count, other=0.0).to(tl.float32)
    share, _ = gate(value, QUICK)
    tl.store(out + places, (value * share).to(out.dtype.element_ty), mask=places < count)


@triton.jit
def activate_backward(x, d_out, d_x, count, QUICK: tl.constexpr, SIZE: tl.constexpr):
    """SIZE values of the activation's gradient."""
    places = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    value = tl.load(x + places, mask=places < count, other=0.0).to(tl.float32)
    share, slope = gate(value, QUICK)
    # Where the gate is closed for good (0 or 1), slope may be infinite and its factor is exactly zero.
    closing = share * (1.0 - share)
    bend = tl.where(closing == 0.0, 0.0, value * closing * slope)
    gradient = tl.load(d_out + places, mask=places < count, other=0.0).to(tl.float32) * (share + bend)
    tl.store(d_x + places, gradient.to(d_x.dtype.element_ty), mask=places < count)


@triton.jit
def residual_norm(x, residual, weight, bias, total, normed, depth, eps, SIZE: tl.constexpr):
    """One row of x + residual and of its LayerNorm."""
    row = tl.program_id(0).to(tl.int64) * depth
    columns = tl.arange(0, SIZE)
    inside = columns < depth
    value = tl.load(x + row + columns, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(residual + row + columns, mask=inside, other=0.0).to(tl.float32)
    # What later layers read is the rounded sum, so the norm is of that.
    kept = value.to(total.dtype.element_ty)
    tl.store(total + row + columns, kept, mask=inside)
    value = kept.to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value, 0) / depth, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / depth + eps)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row + columns, (centred * scale * w + b).to(normed.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def residual_norm_backward(
    total, weight, d_total, d_normed, d_x, d_weight, d_bias, rows, depth, eps, programs, SIZE: tl.constexpr
):
    """Every ``programs``-th row's gradient, and this program's share of the weights' (fp32, one row each)."""
    columns = tl.arange(0, SIZE)
    inside = columns < depth
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((SIZE,), tl.float32)
    bias_sum = tl.zeros((SIZE,), tl.float32)
    for row in range(tl.program_id(0), rows, programs):
        places = tl.cast(row, tl.int64) * depth + columns
        value = tl.load(total + places, mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(inside, value - tl.sum(value, 0) / depth, 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / depth + eps)
        normal = centred * scale
        gradient = tl.load(d_normed + places, mask=inside, other=0.0).to(tl.float32)
        weight_sum += gradient * normal
        bias_sum += gradient
        inner = gradient * w
        back = inner - tl.sum(inner, 0) / depth - normal * (tl.sum(inner * normal, 0) / depth)
        through = tl.load(d_total + places, mask=inside, other=0.0).to(tl.float32) + scale * back
        tl.store(d_x + places, through.to(d_x.dtype.element_ty), mask=inside)
    mine = tl.program_id(0).to(tl.int64) * depth + columns
    tl.store(d_weight + mine, weight_sum, mask=inside)
    tl.store(d_bias + mine, bias_sum, mask=inside)
