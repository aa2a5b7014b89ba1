"""Triton kernels of attention: one for short self-attention, one for everything longer.

Heads of a size that is no power of two are cut in two parts, HEAD_A (a power of two) and HEAD_B (a power of two
that covers the rest, 0 if there is none): 88 becomes 64 + 32, which costs 96 columns of tensor-core work, not 128.

Logits are kept in units of log2: ``scale_log2`` is the softmax scale times log2(e), and exp2 is the hardware's own.
"""
# Kernels are typed by Triton, whose decorator and tensors mypy cannot see.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl


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


@triton.jit
def product(a_first, a_rest, b_first, b_rest, HEAD_B: tl.constexpr, PRECISION: tl.constexpr):
    """Return a b^T in fp32, summed over both parts of the head."""
    total = tl.zeros((a_first.shape[0], b_first.shape[0]), tl.float32)
    total = multiply(a_first, tl.trans(b_first), total, PRECISION)
    if HEAD_B:
        total = multiply(a_rest, tl.trans(b_rest), total, PRECISION)
    return total


@triton.jit
def weigh(logits, v_a, v_b, HEAD_B: tl.constexpr, PRECISION: tl.constexpr):
    """Mix values by the softmax of complete logits, in units of log2; a row whose logits are all -inf gives zeros."""
    top = tl.max(logits, 1)
    # exp2(-inf - 0) is zero where exp2(-inf + inf) would be NaN.
    weights = tl.exp2(logits - tl.where(top == float("-inf"), 0.0, top)[:, None])
    total = tl.sum(weights, 1)
    share = 1.0 / tl.where(total == 0.0, 1.0, total)
    mixing = weights.to(v_a.dtype)
    mixed_a = tl.zeros((logits.shape[0], v_a.shape[1]), tl.float32)
    mixed_a = multiply(mixing, v_a, mixed_a, PRECISION) * share[:, None]
    mixed_b = mixed_a
    if HEAD_B:
        mixed_b = tl.zeros((logits.shape[0], v_b.shape[1]), tl.float32)
        mixed_b = multiply(mixing, v_b, mixed_b, PRECISION) * share[:, None]
    return mixed_a, mixed_b


@triton.jit(do_not_specialize=["batches", "heads"])
def windows_forward(
    q, k, v, out, qsb, qsh, qsn, ksb, ksh, ksn, vsb, vsh, vsn, osb, osh, osn, batches, heads, scale_log2,
    TOKENS: tl.constexpr, WINDOWS: tl.constexpr, HEAD: tl.constexpr, HEAD_A: tl.constexpr, HEAD_B: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Attend within WINDOWS neighbouring batch elements of one head, each of TOKENS rows, in one tile of ROWS rows.

    Neighbours of a packed projection lie TOKENS rows apart, so that together they are one tile of equally spaced rows;
    a block-diagonal mask keeps each window to itself. WINDOWS is 1 where they lie otherwise. Values that are not finite
    spoil the tile's other windows, because zero times NaN is NaN.
    """
    head = (tl.program_id(0) % heads).to(tl.int64)
    first = (tl.program_id(0) // heads).to(tl.int64) * WINDOWS
    limit = tl.minimum(batches - first, WINDOWS).to(tl.int32) * TOKENS
    rows = tl.arange(0, ROWS)
    qsn, ksn = tl.multiple_of(qsn, ALIGN), tl.multiple_of(ksn, ALIGN)
    vsn, osn = tl.multiple_of(vsn, ALIGN), tl.multiple_of(osn, ALIGN)
    q_base = q + tl.multiple_of(first * qsb + head * qsh, ALIGN)
    k_base = k + tl.multiple_of(first * ksb + head * ksh, ALIGN)
    v_base = v + tl.multiple_of(first * vsb + head * vsh, ALIGN)
    o_base = out + tl.multiple_of(first * osb + head * osh, ALIGN)
    q_a = load_rows(q_base, rows, qsn, limit, HEAD, 0, HEAD_A, True)
    k_a = load_rows(k_base, rows, ksn, limit, HEAD, 0, HEAD_A, True)
    v_a = load_rows(v_base, rows, vsn, limit, HEAD, 0, HEAD_A, True)
    q_b, k_b, v_b = q_a, k_a, v_a
    if HEAD_B:
        q_b = load_rows(q_base, rows, qsn, limit, HEAD, HEAD_A, HEAD_B, True)
        k_b = load_rows(k_base, rows, ksn, limit, HEAD, HEAD_A, HEAD_B, True)
        v_b = load_rows(v_base, rows, vsn, limit, HEAD, HEAD_A, HEAD_B, True)
    logits = product(q_a, q_b, k_a, k_b, HEAD_B, PRECISION) * scale_log2
    logits = tl.where(rows[:, None] // TOKENS == rows[None, :] // TOKENS, logits, float("-inf"))
    mixed_a, mixed_b = weigh(logits, v_a, v_b, HEAD_B, PRECISION)
    store_rows(o_base, rows, osn, limit, mixed_a, HEAD, 0, HEAD_A)
    if HEAD_B:
        store_rows(o_base, rows, osn, limit, mixed_b, HEAD, HEAD_A, HEAD_B)


@triton.jit
def absorb(
    q_a, q_b, k_base, v_base, ksn, vsn, start, limit, scale_log2, top, total, mixed_a, mixed_b,
    HEAD: tl.constexpr, HEAD_A: tl.constexpr, HEAD_B: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Take SIZE more keys into a running softmax (Milakov and Gimelshein, arXiv 1805.02867)."""
    columns = start + tl.arange(0, SIZE)
    k_a = load_rows(k_base, columns, ksn, limit, HEAD, 0, HEAD_A, MASKED)
    v_a = load_rows(v_base, columns, vsn, limit, HEAD, 0, HEAD_A, MASKED)
    k_b, v_b = k_a, v_a
    if HEAD_B:
        k_b = load_rows(k_base, columns, ksn, limit, HEAD, HEAD_A, HEAD_B, MASKED)
        v_b = load_rows(v_base, columns, vsn, limit, HEAD, HEAD_A, HEAD_B, MASKED)
    logits = product(q_a, q_b, k_a, k_b, HEAD_B, PRECISION) * scale_log2
    if MASKED:
        logits = tl.where(columns[None, :] < limit, logits, float("-inf"))
    higher = tl.maximum(top, tl.max(logits, 1))
    # Still -inf where all logits so far are: exp2(-inf - 0) is zero where exp2(-inf + inf) would be NaN.
    held = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp2(logits - held[:, None])
    shrink = tl.exp2(top - held)
    total = total * shrink + tl.sum(weights, 1)
    mixing = weights.to(v_a.dtype)
    mixed_a = multiply(mixing, v_a, mixed_a * shrink[:, None], PRECISION)
    if HEAD_B:
        mixed_b = multiply(mixing, v_b, mixed_b * shrink[:, None], PRECISION)
    return higher, total, mixed_a, mixed_b


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def long_forward(
    q, k, v, out, qsb, qsh, qsn, ksb, ksh, ksn, vsb, vsh, vsn, osb, osh, osn, heads, queries, keys, scale_log2,
    HEAD: tl.constexpr, HEAD_A: tl.constexpr, HEAD_B: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    TAIL: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Attend from ROWS queries of one (batch, head) pair to its keys: whole tiles first, without masks.

    The last keys come in tiles of TAIL: 257 keys are 4 x 64 + 16 columns of work, not 5 x 64. Tiles of one pair
    are neighbours in the grid, so that its keys and values are read from L2 but once.
    """
    tiles = tl.cdiv(queries, ROWS)
    pair = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles) * ROWS
    batch, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    rows = first + tl.arange(0, ROWS)
    qsn, ksn = tl.multiple_of(qsn, ALIGN), tl.multiple_of(ksn, ALIGN)
    vsn, osn = tl.multiple_of(vsn, ALIGN), tl.multiple_of(osn, ALIGN)
    q_base = q + tl.multiple_of(batch * qsb + head * qsh, ALIGN)
    k_base = k + tl.multiple_of(batch * ksb + head * ksh, ALIGN)
    v_base = v + tl.multiple_of(batch * vsb + head * vsh, ALIGN)
    q_a = load_rows(q_base, rows, qsn, queries, HEAD, 0, HEAD_A, True)
    q_b = q_a
    mixed_a = tl.zeros((ROWS, HEAD_A), tl.float32)
    mixed_b = tl.zeros((ROWS, HEAD_B if HEAD_B else 1), tl.float32)
    if HEAD_B:
        q_b = load_rows(q_base, rows, qsn, queries, HEAD, HEAD_A, HEAD_B, True)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    whole = keys // COLUMNS * COLUMNS
    for start in range(0, whole, COLUMNS):
        top, total, mixed_a, mixed_b = absorb(
            q_a, q_b, k_base, v_base, ksn, vsn, start, keys, scale_log2, top, total, mixed_a, mixed_b,
            HEAD, HEAD_A, HEAD_B, COLUMNS, False, PRECISION,
        )  # fmt: skip
    for start in range(whole, keys, TAIL):
        top, total, mixed_a, mixed_b = absorb(
            q_a, q_b, k_base, v_base, ksn, vsn, start, keys, scale_log2, top, total, mixed_a, mixed_b,
            HEAD, HEAD_A, HEAD_B, TAIL, True, PRECISION,
        )  # fmt: skip
    share = 1.0 / tl.where(total == 0.0, 1.0, total)
    o_base = out + tl.multiple_of(batch * osb + head * osh, ALIGN)
    store_rows(o_base, rows, osn, queries, mixed_a * share[:, None], HEAD, 0, HEAD_A)
    if HEAD_B:
        store_rows(o_base, rows, osn, queries, mixed_b * share[:, None], HEAD, HEAD_A, HEAD_B)
