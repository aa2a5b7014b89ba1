"""Building blocks that several kernels share: products, and rows of a matrix with their masks."""
# Kernels are typed by Triton, whose decorator and tensors mypy cannot see.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch


def precision_of(dtype: torch.dtype, allow_tf32: bool) -> str:
    """Return PRECISION for :func:`multiply`: ``ieee``, ``tf32``, or ``widened`` for bf16 in the interpreter.

    Triton's interpreter keeps bf16 as integers and multiplies those; widened to fp32 the products are exact.
    """
    from streamfer_kernels.backend import interpreting

    if interpreting() and str(dtype) == "torch.bfloat16":
        return "widened"
    return "tf32" if allow_tf32 else "ieee"


@triton.jit
def multiply(a, b, total, PRECISION: tl.constexpr):
    """Return a b + total, summed in fp32."""
    if PRECISION == "widened":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc=total, input_precision="ieee")
    return tl.dot(a, b, acc=total, input_precision=PRECISION)


@triton.jit
def load_rows(
    base, rows, row_stride, limit, HEAD: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, MASKED: tl.constexpr
):
    """Columns FIRST to FIRST + WIDTH of some rows of a head, zeros beyond HEAD and beyond ``limit`` rows."""
    columns = FIRST + tl.arange(0, WIDTH)
    pointers = base + rows[:, None] * row_stride + columns[None, :]
    if MASKED:
        return tl.load(pointers, mask=(rows[:, None] < limit) & (columns[None, :] < HEAD), other=0.0)
    if FIRST + WIDTH > HEAD:
        return tl.load(pointers, mask=columns[None, :] < HEAD, other=0.0)
    return tl.load(pointers)


@triton.jit
def store_rows(base, rows, row_stride, limit, values, HEAD: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    """Write what :func:`load_rows` would read, converted to the tensor's type."""
    columns = FIRST + tl.arange(0, WIDTH)
    pointers = base + rows[:, None] * row_stride + columns[None, :]
    mask = (rows[:, None] < limit) & (columns[None, :] < HEAD)
    tl.store(pointers, values.to(base.dtype.element_ty), mask=mask)
