"""Triton kernels of the label head: a linear layer with everything around it, and both ends of the head."""
# Kernels are typed by Triton, whose decorator and tensors mypy cannot see.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

from streamfer_kernels.tiles import multiply


@triton.jit
def row_statistics(x_rows, inside, eps, DEPTH: tl.constexpr, STEP: tl.constexpr, ROWS: tl.constexpr):
    """Mean and 1 / standard deviation of whole rows, in two passes: the second reads from L1."""
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, DEPTH, STEP):
        columns = start + tl.arange(0, STEP)
        mask = inside & (columns[None, :] < DEPTH)
        total += tl.sum(tl.load(x_rows + columns[None, :], mask=mask, other=0.0).to(tl.float32), 1)
    mean = total / DEPTH
    spread = tl.zeros((ROWS,), tl.float32)
    for start in range(0, DEPTH, STEP):
        columns = start + tl.arange(0, STEP)
        mask = inside & (columns[None, :] < DEPTH)
        centred = tl.load(x_rows + columns[None, :], mask=mask, other=0.0).to(tl.float32) - mean[:, None]
        spread += tl.sum(tl.where(mask, centred * centred, 0.0), 1)
    return mean, 1.0 / tl.sqrt(spread / DEPTH + eps)


@triton.jit(do_not_specialize=["rows"])
def linear(
    x, weight, bias, norm_weight, norm_bias, residual, out, rows, columns, x_stride, residual_stride, eps,
    DEPTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, NORM: tl.constexpr,
    BIAS: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """ROWS x COLUMNS of residual + gelu(norm(x) weight^T + bias), each part where asked for.

    Programs of one tile of rows are neighbours: their x comes from L2. The norm is of whole rows and is computed
    again for each tile of columns, which costs reads of L1 and L2 and saves a launch and a pass over memory.
    """
    tiles = tl.cdiv(columns, COLUMNS)
    row = (tl.program_id(0) // tiles) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    inside = row[:, None] < rows
    x_rows = x + row[:, None].to(tl.int64) * x_stride
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if NORM:
        mean, scale = row_statistics(x_rows, inside, eps, DEPTH, STEP, ROWS)
    for start in range(0, DEPTH, STEP):
        depth = start + tl.arange(0, STEP)
        value = tl.load(x_rows + depth[None, :], mask=inside & (depth[None, :] < DEPTH), other=0.0)
        if NORM:
            gain = tl.load(norm_weight + depth, mask=depth < DEPTH, other=0.0).to(tl.float32)
            shift = tl.load(norm_bias + depth, mask=depth < DEPTH, other=0.0).to(tl.float32)
            normal = (value.to(tl.float32) - mean[:, None]) * scale[:, None]
            value = (normal * gain[None, :] + shift[None, :]).to(x.dtype.element_ty)
        w_mask = (column[:, None] < columns) & (depth[None, :] < DEPTH)
        w = tl.load(weight + column[:, None].to(tl.int64) * DEPTH + depth[None, :], mask=w_mask, other=0.0)
        total = multiply(value, tl.trans(w), total, PRECISION)
    if BIAS:
        total += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    if GELU:
        # x sigmoid(2 z) is x (1 + tanh z) / 2.
        inner = 1.5957691216057308 * (total + 0.044715 * total * total * total)
        total = total / (1.0 + tl.exp2(-1.4426950408889634 * inner))
    mask = inside & (column[None, :] < columns)
    if RESIDUAL:
        places = residual + row[:, None].to(tl.int64) * residual_stride + column[None, :]
        total += tl.load(places, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row[:, None].to(tl.int64) * columns + column[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["ring_rows"])
def gather_tokens(
    ring, indices, class_token, positions, out, ring_rows, ring_stride, depth, TOKENS: tl.constexpr, SIZE: tl.constexpr
):
    """One token of a window: the class token or a row of the ring, plus its position; NaN for no such row."""
    window = (tl.program_id(0) // TOKENS).to(tl.int64)
    token = tl.program_id(0) % TOKENS
    columns = tl.arange(0, SIZE)
    inside = columns < depth
    place = tl.load(indices + window * (TOKENS - 1) + token - 1, mask=token > 0, other=0).to(tl.int64)
    known = (token == 0) | ((place >= 0) & (place < ring_rows))
    # Limits instead of masks of a single bit: nothing is read where there is nothing.
    from_ring = tl.where((token > 0) & known, depth, 0)
    from_class = tl.where(token == 0, depth, 0)
    value = tl.load(ring + place * ring_stride + columns, mask=columns < from_ring, other=0.0).to(tl.float32)
    value += tl.load(class_token + columns, mask=columns < from_class, other=0.0).to(tl.float32)
    value += tl.load(positions + token * depth + columns, mask=inside, other=0.0).to(tl.float32)
    value += tl.where(known, 0.0, float("nan"))
    tl.store(out + (window * TOKENS + token) * depth + columns, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def cosine_softmax(clips, classes, out, depth, count, scale_log2, COUNT: tl.constexpr, STEP: tl.constexpr):
    """Probabilities of one clip: softmax of its cosines with normalised class features over the temperature."""
    clip = tl.program_id(0).to(tl.int64)
    label = tl.arange(0, COUNT)
    square = tl.zeros((STEP,), tl.float32)
    cosine = tl.zeros((COUNT,), tl.float32)
    for start in range(0, depth, STEP):
        columns = start + tl.arange(0, STEP)
        value = tl.load(clips + clip * depth + columns, mask=columns < depth, other=0.0).to(tl.float32)
        mask = (label[:, None] < count) & (columns[None, :] < depth)
        feature = tl.load(classes + label[:, None] * depth + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        square += value * value
        cosine += tl.sum(feature * value[None, :], 1)
    logits = cosine / tl.maximum(tl.sqrt(tl.sum(square, 0)), 1e-12) * scale_log2
    logits = tl.where(label < count, logits, float("-inf"))
    weights = tl.exp2(logits - tl.max(logits, 0))
    tl.store(out + clip * count + label, weights / tl.sum(weights, 0), mask=label < count)
