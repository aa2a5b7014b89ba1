"""Triton kernels of the attention's backward pass: no atomics, so that equal inputs give equal bits.

Short sequences: one program computes all three gradients of a (batch, head) pair, whose logits fit one tile; it
needs neither the output nor the log-sum of the forward pass. Longer ones: one kernel for the queries' gradient,
a tile of queries a program, and one for the keys' and values', a tile of keys a program. The second computes the
logits again, transposed, which costs two more products than the atomics of FlashAttention-2 (arXiv 2307.08691,
section 3.1) and saves its fp32 copy of the queries' gradient.
"""
# Kernels are typed by Triton, whose decorator and tensors mypy cannot see.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

from streamfer_kernels.attention_forward import product, valid_keys
from streamfer_kernels.tiles import load_rows, multiply, store_rows


@triton.jit(do_not_specialize=["pairs", "heads", "queries", "keys"])
def short_backward(  # noqa: PLR0915 - one tile's five products, with two parts of a head each
    q, k, v, d_out, d_q, d_k, d_v, lengths, qsb, qsh, qsn, ksb, ksh, ksn, vsb, vsh, vsn, gsb, gsh, gsn,
    dqsb, dqsh, dqsn, dksb, dksh, dksn, dvsb, dvsh, dvsn, pairs, heads, queries, keys, scale, scale_log2,
    HEAD: tl.constexpr, HEAD_A: tl.constexpr, HEAD_B: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PAIRS: tl.constexpr, CAUSAL: tl.constexpr, HAS_LENGTHS: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Gradients of PAIRS neighbouring (batch, head) pairs, each within one tile of ROWS x COLUMNS."""
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    for step in range(PAIRS):
        pair = tl.program_id(0) * PAIRS + step
        inside = pair < pairs
        held = tl.minimum(pair, pairs - 1)
        batch, head = (held // heads).to(tl.int64), (held % heads).to(tl.int64)
        n = tl.where(inside, queries, 0)
        m = tl.where(inside, keys, 0)
        limit = tl.where(inside, valid_keys(lengths, batch, keys, HAS_LENGTHS), 0)
        q_base = q + tl.multiple_of(batch * qsb + head * qsh, ALIGN)
        k_base = k + tl.multiple_of(batch * ksb + head * ksh, ALIGN)
        v_base = v + tl.multiple_of(batch * vsb + head * vsh, ALIGN)
        g_base = d_out + tl.multiple_of(batch * gsb + head * gsh, ALIGN)
        q_a = load_rows(q_base, rows, tl.multiple_of(qsn, ALIGN), n, HEAD, 0, HEAD_A, True)
        k_a = load_rows(k_base, columns, tl.multiple_of(ksn, ALIGN), limit, HEAD, 0, HEAD_A, True)
        v_a = load_rows(v_base, columns, tl.multiple_of(vsn, ALIGN), limit, HEAD, 0, HEAD_A, True)
        g_a = load_rows(g_base, rows, tl.multiple_of(gsn, ALIGN), n, HEAD, 0, HEAD_A, True)
        q_b, k_b, v_b, g_b = q_a, k_a, v_a, g_a
        if HEAD_B:
            q_b = load_rows(q_base, rows, tl.multiple_of(qsn, ALIGN), n, HEAD, HEAD_A, HEAD_B, True)
            k_b = load_rows(k_base, columns, tl.multiple_of(ksn, ALIGN), limit, HEAD, HEAD_A, HEAD_B, True)
            v_b = load_rows(v_base, columns, tl.multiple_of(vsn, ALIGN), limit, HEAD, HEAD_A, HEAD_B, True)
            g_b = load_rows(g_base, rows, tl.multiple_of(gsn, ALIGN), n, HEAD, HEAD_A, HEAD_B, True)
        logits = product(q_a, q_b, k_a, k_b, HEAD_B, PRECISION) * scale_log2
        allowed = columns[None, :] < limit
        if CAUSAL:
            allowed = allowed & (columns[None, :] <= rows[:, None])
        logits = tl.where(allowed, logits, float("-inf"))
        top = tl.max(logits, 1)
        weights = tl.exp2(logits - tl.where(top == float("-inf"), 0.0, top)[:, None])
        total = tl.sum(weights, 1)
        weights = weights * (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]
        d_weights = product(g_a, g_b, v_a, v_b, HEAD_B, PRECISION)
        # The tile holds the whole row, so the softmax's own correction needs no output of the forward pass.
        d_logits = weights * (d_weights - tl.sum(weights * d_weights, 1)[:, None]) * scale
        mixing, d_logits = tl.trans(weights.to(g_a.dtype)), d_logits.to(q_a.dtype)
        d_logits_t = tl.trans(d_logits)
        dq_base = d_q + tl.multiple_of(batch * dqsb + head * dqsh, ALIGN)
        dk_base = d_k + tl.multiple_of(batch * dksb + head * dksh, ALIGN)
        dv_base = d_v + tl.multiple_of(batch * dvsb + head * dvsh, ALIGN)
        dqsn, dksn, dvsn = tl.multiple_of(dqsn, ALIGN), tl.multiple_of(dksn, ALIGN), tl.multiple_of(dvsn, ALIGN)
        zero_ra, zero_ca = tl.zeros((ROWS, HEAD_A), tl.float32), tl.zeros((COLUMNS, HEAD_A), tl.float32)
        store_rows(dv_base, columns, dvsn, m, multiply(mixing, g_a, zero_ca, PRECISION), HEAD, 0, HEAD_A)
        store_rows(dq_base, rows, dqsn, n, multiply(d_logits, k_a, zero_ra, PRECISION), HEAD, 0, HEAD_A)
        store_rows(dk_base, columns, dksn, m, multiply(d_logits_t, q_a, zero_ca, PRECISION), HEAD, 0, HEAD_A)
        if HEAD_B:
            zero_rb, zero_cb = tl.zeros((ROWS, HEAD_B), tl.float32), tl.zeros((COLUMNS, HEAD_B), tl.float32)
            d_vb = multiply(mixing, g_b, zero_cb, PRECISION)
            d_qb = multiply(d_logits, k_b, zero_rb, PRECISION)
            d_kb = multiply(d_logits_t, q_b, zero_cb, PRECISION)
            store_rows(dv_base, columns, dvsn, m, d_vb, HEAD, HEAD_A, HEAD_B)
            store_rows(dq_base, rows, dqsn, n, d_qb, HEAD, HEAD_A, HEAD_B)
            store_rows(dk_base, columns, dksn, m, d_kb, HEAD, HEAD_A, HEAD_B)


@triton.jit
def absorb_keys(
    q_a, q_b, g_a, g_b, k_base, v_base, ksn, vsn, start, rows, limit, scale_log2, lse, delta, d_qa, d_qb,
    HEAD: tl.constexpr, HEAD_A: tl.constexpr, HEAD_B: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what SIZE more keys contribute to the queries' gradient (without the scale, which comes last)."""
    columns = start + tl.arange(0, SIZE)
    k_a = load_rows(k_base, columns, ksn, limit, HEAD, 0, HEAD_A, MASKED)
    v_a = load_rows(v_base, columns, vsn, limit, HEAD, 0, HEAD_A, MASKED)
    k_b, v_b = k_a, v_a
    if HEAD_B:
        k_b = load_rows(k_base, columns, ksn, limit, HEAD, HEAD_A, HEAD_B, MASKED)
        v_b = load_rows(v_base, columns, vsn, limit, HEAD, HEAD_A, HEAD_B, MASKED)
    weights = tl.exp2(product(q_a, q_b, k_a, k_b, HEAD_B, PRECISION) * scale_log2 - lse[:, None])
    if MASKED:
        allowed = columns[None, :] < limit
        if CAUSAL:
            allowed = allowed & (columns[None, :] <= rows[:, None])
        weights = tl.where(allowed, weights, 0.0)
    d_weights = product(g_a, g_b, v_a, v_b, HEAD_B, PRECISION)
    d_logits = (weights * (d_weights - delta[:, None])).to(k_a.dtype)
    d_qa = multiply(d_logits, k_a, d_qa, PRECISION)
    if HEAD_B:
        d_qb = multiply(d_logits, k_b, d_qb, PRECISION)
    return d_qa, d_qb


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def long_backward_queries(
    q, k, v, out, d_out, d_q, lse, delta, lengths, qsb, qsh, qsn, ksb, ksh, ksn, vsb, vsh, vsn, osb, osh, osn,
    gsb, gsh, gsn, dqsb, dqsh, dqsn, heads, queries, keys, scale, scale_log2,
    HEAD: tl.constexpr, HEAD_A: tl.constexpr, HEAD_B: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    TAIL: tl.constexpr, CAUSAL: tl.constexpr, HAS_LENGTHS: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Gradient of ROWS queries of a pair; also leaves sum(out * d_out) of each row in ``delta``."""
    tiles = tl.cdiv(queries, ROWS)
    pair = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles) * ROWS
    batch, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    rows = first + tl.arange(0, ROWS)
    qsn, ksn, vsn = tl.multiple_of(qsn, ALIGN), tl.multiple_of(ksn, ALIGN), tl.multiple_of(vsn, ALIGN)
    osn, gsn, dqsn = tl.multiple_of(osn, ALIGN), tl.multiple_of(gsn, ALIGN), tl.multiple_of(dqsn, ALIGN)
    q_base = q + tl.multiple_of(batch * qsb + head * qsh, ALIGN)
    k_base = k + tl.multiple_of(batch * ksb + head * ksh, ALIGN)
    v_base = v + tl.multiple_of(batch * vsb + head * vsh, ALIGN)
    o_base = out + tl.multiple_of(batch * osb + head * osh, ALIGN)
    g_base = d_out + tl.multiple_of(batch * gsb + head * gsh, ALIGN)
    q_a = load_rows(q_base, rows, qsn, queries, HEAD, 0, HEAD_A, True)
    g_a = load_rows(g_base, rows, gsn, queries, HEAD, 0, HEAD_A, True)
    o_a = load_rows(o_base, rows, osn, queries, HEAD, 0, HEAD_A, True)
    row_delta = tl.sum(g_a.to(tl.float32) * o_a.to(tl.float32), 1)
    q_b, g_b = q_a, g_a
    d_qa = tl.zeros((ROWS, HEAD_A), tl.float32)
    d_qb = tl.zeros((ROWS, HEAD_B if HEAD_B else 1), tl.float32)
    if HEAD_B:
        q_b = load_rows(q_base, rows, qsn, queries, HEAD, HEAD_A, HEAD_B, True)
        g_b = load_rows(g_base, rows, gsn, queries, HEAD, HEAD_A, HEAD_B, True)
        o_b = load_rows(o_base, rows, osn, queries, HEAD, HEAD_A, HEAD_B, True)
        row_delta += tl.sum(g_b.to(tl.float32) * o_b.to(tl.float32), 1)
    places = pair.to(tl.int64) * queries + rows
    tl.store(delta + places, row_delta, mask=rows < queries)
    row_lse = tl.load(lse + places, mask=rows < queries, other=float("inf"))
    limit = valid_keys(lengths, batch, keys, HAS_LENGTHS)
    end, whole = limit, limit // COLUMNS * COLUMNS
    if CAUSAL:
        end = tl.minimum(limit, first + ROWS)
        whole = tl.minimum(whole, first // COLUMNS * COLUMNS)
    for start in range(0, whole, COLUMNS):
        d_qa, d_qb = absorb_keys(
            q_a, q_b, g_a, g_b, k_base, v_base, ksn, vsn, start, rows, limit, scale_log2, row_lse, row_delta,
            d_qa, d_qb, HEAD, HEAD_A, HEAD_B, COLUMNS, False, False, PRECISION,
        )  # fmt: skip
    for start in range(whole, end, TAIL):
        d_qa, d_qb = absorb_keys(
            q_a, q_b, g_a, g_b, k_base, v_base, ksn, vsn, start, rows, limit, scale_log2, row_lse, row_delta,
            d_qa, d_qb, HEAD, HEAD_A, HEAD_B, TAIL, True, CAUSAL, PRECISION,
        )  # fmt: skip
    dq_base = d_q + tl.multiple_of(batch * dqsb + head * dqsh, ALIGN)
    store_rows(dq_base, rows, dqsn, queries, d_qa * scale, HEAD, 0, HEAD_A)
    if HEAD_B:
        store_rows(dq_base, rows, dqsn, queries, d_qb * scale, HEAD, HEAD_A, HEAD_B)


@triton.jit
def absorb_queries(
    k_a, k_b, v_a, v_b, q_base, g_base, qsn, gsn, lse, delta, start, columns, queries, limit, scale_log2,
    d_ka, d_kb, d_va, d_vb,
    HEAD: tl.constexpr, HEAD_A: tl.constexpr, HEAD_B: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr,
    CAUSAL: tl.constexpr, HAS_LENGTHS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what SIZE more queries contribute to the keys' and values' gradients; tiles are keys x queries."""
    rows = start + tl.arange(0, SIZE)
    q_a = load_rows(q_base, rows, qsn, queries, HEAD, 0, HEAD_A, MASKED)
    g_a = load_rows(g_base, rows, gsn, queries, HEAD, 0, HEAD_A, MASKED)
    q_b, g_b = q_a, g_a
    if HEAD_B:
        q_b = load_rows(q_base, rows, qsn, queries, HEAD, HEAD_A, HEAD_B, MASKED)
        g_b = load_rows(g_base, rows, gsn, queries, HEAD, HEAD_A, HEAD_B, MASKED)
    row_lse = tl.load(lse + rows, mask=rows < queries, other=float("inf"))
    row_delta = tl.load(delta + rows, mask=rows < queries, other=0.0)
    weights = tl.exp2(product(k_a, k_b, q_a, q_b, HEAD_B, PRECISION) * scale_log2 - row_lse[None, :])
    if HAS_LENGTHS:
        weights = tl.where(columns[:, None] < limit, weights, 0.0)
    if CAUSAL:
        weights = tl.where(columns[:, None] <= rows[None, :], weights, 0.0)
    mixing = weights.to(g_a.dtype)
    d_weights = product(v_a, v_b, g_a, g_b, HEAD_B, PRECISION)
    d_logits = (weights * (d_weights - row_delta[None, :])).to(q_a.dtype)
    d_va = multiply(mixing, g_a, d_va, PRECISION)
    d_ka = multiply(d_logits, q_a, d_ka, PRECISION)
    if HEAD_B:
        d_vb = multiply(mixing, g_b, d_vb, PRECISION)
        d_kb = multiply(d_logits, q_b, d_kb, PRECISION)
    return d_ka, d_kb, d_va, d_vb


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def long_backward_keys(
    q, k, v, d_out, d_k, d_v, lse, delta, lengths, qsb, qsh, qsn, ksb, ksh, ksn, vsb, vsh, vsn, gsb, gsh, gsn,
    dksb, dksh, dksn, dvsb, dvsh, dvsn, heads, queries, keys, scale, scale_log2,
    HEAD: tl.constexpr, HEAD_A: tl.constexpr, HEAD_B: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    TAIL: tl.constexpr, CAUSAL: tl.constexpr, HAS_LENGTHS: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Gradients of COLUMNS keys and values of a pair; ``lse`` and ``delta`` come from the other kernels."""
    tiles = tl.cdiv(keys, COLUMNS)
    pair = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles) * COLUMNS
    batch, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    columns = first + tl.arange(0, COLUMNS)
    qsn, ksn, vsn = tl.multiple_of(qsn, ALIGN), tl.multiple_of(ksn, ALIGN), tl.multiple_of(vsn, ALIGN)
    gsn, dksn, dvsn = tl.multiple_of(gsn, ALIGN), tl.multiple_of(dksn, ALIGN), tl.multiple_of(dvsn, ALIGN)
    q_base = q + tl.multiple_of(batch * qsb + head * qsh, ALIGN)
    k_base = k + tl.multiple_of(batch * ksb + head * ksh, ALIGN)
    v_base = v + tl.multiple_of(batch * vsb + head * vsh, ALIGN)
    g_base = d_out + tl.multiple_of(batch * gsb + head * gsh, ALIGN)
    limit = valid_keys(lengths, batch, keys, HAS_LENGTHS)
    k_a = load_rows(k_base, columns, ksn, limit, HEAD, 0, HEAD_A, True)
    v_a = load_rows(v_base, columns, vsn, limit, HEAD, 0, HEAD_A, True)
    k_b, v_b = k_a, v_a
    d_ka = tl.zeros((COLUMNS, HEAD_A), tl.float32)
    d_va = tl.zeros((COLUMNS, HEAD_A), tl.float32)
    d_kb = tl.zeros((COLUMNS, HEAD_B if HEAD_B else 1), tl.float32)
    d_vb = tl.zeros((COLUMNS, HEAD_B if HEAD_B else 1), tl.float32)
    if HEAD_B:
        k_b = load_rows(k_base, columns, ksn, limit, HEAD, HEAD_A, HEAD_B, True)
        v_b = load_rows(v_base, columns, vsn, limit, HEAD, HEAD_A, HEAD_B, True)
    lse += pair.to(tl.int64) * queries
    delta += pair.to(tl.int64) * queries
    begin = 0
    if CAUSAL:
        # Queries before the first key of this tile see none of its keys.
        begin = tl.minimum(first, queries) // ROWS * ROWS
    whole = queries // ROWS * ROWS
    for start in range(begin, whole, ROWS):
        d_ka, d_kb, d_va, d_vb = absorb_queries(
            k_a, k_b, v_a, v_b, q_base, g_base, qsn, gsn, lse, delta, start, columns, queries, limit, scale_log2,
            d_ka, d_kb, d_va, d_vb, HEAD, HEAD_A, HEAD_B, ROWS, False, CAUSAL, HAS_LENGTHS, PRECISION,
        )  # fmt: skip
    for start in range(whole, queries, TAIL):
        d_ka, d_kb, d_va, d_vb = absorb_queries(
            k_a, k_b, v_a, v_b, q_base, g_base, qsn, gsn, lse, delta, start, columns, queries, limit, scale_log2,
            d_ka, d_kb, d_va, d_vb, HEAD, HEAD_A, HEAD_B, TAIL, True, CAUSAL, HAS_LENGTHS, PRECISION,
        )  # fmt: skip
    dk_base = d_k + tl.multiple_of(batch * dksb + head * dksh, ALIGN)
    dv_base = d_v + tl.multiple_of(batch * dvsb + head * dvsh, ALIGN)
    store_rows(dk_base, columns, dksn, keys, d_ka * scale, HEAD, 0, HEAD_A)
    store_rows(dv_base, columns, dvsn, keys, d_va, HEAD, 0, HEAD_A)
    if HEAD_B:
        store_rows(dk_base, columns, dksn, keys, d_kb * scale, HEAD, HEAD_A, HEAD_B)
        store_rows(dv_base, columns, dvsn, keys, d_vb, HEAD, HEAD_A, HEAD_B)
