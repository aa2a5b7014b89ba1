"""Attention by Triton against float64: every shape, layout and mask, forward and backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import DEVICE, TOLERANCE, Case, error, exact_results, relaid

from streamfer_kernels import attention, attention_launch, attention_packed, use
from streamfer_kernels.attention_shapes import Tiles, head_parts, is_short

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32

CASES = [
    Case(2, 3, 17, 17, 64),
    Case(2, 2, 17, 17, 64, BF16),
    Case(1, 2, 50, 50, 64, BF16),
    Case(1, 1, 50, 50, 64),
    Case(1, 2, 33, 77, 88, BF16),
    Case(1, 1, 70, 97, 88),
    Case(1, 2, 32, 257, 64, FP16),
    Case(1, 1, 77, 77, 64, FP16, causal=True),
    Case(3, 1, 5, 9, 32, lengths=(0, 4, 9)),
    Case(3, 1, 70, 70, 32, causal=True, lengths=(0, 33, 70)),
    Case(2, 1, 1, 1, 32),
    Case(1, 2, 1, 17, 128, BF16),
    Case(1, 1, 40, 1, 80, FP16),
    Case(1, 1, 12, 100, 96, causal=True),
    Case(1, 1, 100, 12, 96, BF16, causal=True),
    Case(2, 1, 6, 6, 8, scale=0.7),
]
SLOW_CASES = [
    Case(1, 2, 197, 197, 64, BF16),
    Case(1, 2, 257, 257, 88, BF16),
    Case(1, 1, 257, 257, 88),
    Case(1, 1, 1024, 1024, 128, BF16),
    Case(1, 1, 1000, 513, 80, FP16, causal=True, lengths=(500,)),
    *(
        Case(2, 2, n, m, e, d)
        for n, m in ((17, 17), (65, 130))
        for e in (32, 64, 80, 88, 96, 128)
        for d in (BF16, FP32)
    ),
]


def check(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Output and gradients of a forced Triton call against float64."""
    d_out = torch.randn(q.shape, generator=torch.Generator().manual_seed(5)).to(DEVICE, case.dtype)
    with use("triton"):
        out = attention(q, k, v, causal=case.causal, key_lengths=case.key_lengths(), scale=case.scale)
        found = [out, *torch.autograd.grad(out, (q, k, v), d_out)]
    assert out.dtype == case.dtype
    # Gradients may vanish by cancellation (a single key: d_q is zero), but not their rounding errors.
    floor = 0.3 * float(d_out.double().norm())
    for name, one, other in zip(("out", "d_q", "d_k", "d_v"), found, exact_results(case, q, k, v, d_out), strict=True):
        wrong = error(one, other, 1e-30 if name == "out" else floor)
        assert wrong <= TOLERANCE[case.dtype], f"{name}: {wrong:.2e}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_like_float64(case: Case) -> None:
    check(case, *case.inputs())


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW_CASES, ids=str)
def test_like_float64_at_length(case: Case) -> None:
    check(case, *case.inputs())


@st.composite
def problems(draw: st.DrawFn, longest: int) -> tuple[Case, list[tuple[tuple[int, ...], int]]]:
    """Any problem, and a layout for each of its inputs."""
    batch = draw(st.integers(1, 3))
    queries, keys = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    lengths = draw(st.none() | st.tuples(*[st.integers(-2, keys + 2)] * batch))
    case = Case(
        batch, draw(st.integers(1, 3)), queries, keys, draw(st.sampled_from((8, 16, 24, 32, 64, 80, 88))),
        draw(st.sampled_from((FP32, BF16, FP16))), draw(st.booleans()), lengths,
    )  # fmt: skip
    layouts = st.tuples(st.permutations((0, 1, 2)).map(tuple), st.sampled_from((0, 1, 8)))
    return case, [draw(layouts) for _ in range(3)]


@settings(max_examples=10, deadline=None)
@given(problems(longest=72))
def test_any_shape_and_any_strides(problem: tuple[Case, list[tuple[tuple[int, ...], int]]]) -> None:
    case, layouts = problem
    q, k, v = (relaid(value, *layout) for value, layout in zip(case.inputs(seed=3), layouts, strict=True))
    check(case, q, k, v)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(problems(longest=200))
def test_any_longer_shape_and_any_strides(problem: tuple[Case, list[tuple[tuple[int, ...], int]]]) -> None:
    case, layouts = problem
    q, k, v = (relaid(value, *layout) for value, layout in zip(case.inputs(seed=4), layouts, strict=True))
    check(case, q, k, v)


@pytest.mark.parametrize(("rows", "head"), [(17, 64), (17, 88), (40, 24)])
def test_packed_equals_separate(rows: int, head: int) -> None:
    qkv = torch.randn(2, rows, 3 * 2 * head, device=DEVICE, requires_grad=True)
    d_out = torch.randn(2, rows, 2 * head, device=DEVICE)
    q, k, v = (part.unflatten(-1, (2, head)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    lengths = torch.tensor([rows - 3, rows], device=DEVICE)
    with use("triton"):
        packed = attention_packed(qkv, 2, key_lengths=lengths)
        (d_packed,) = torch.autograd.grad(packed, qkv, d_out)
        apart = attention(q, k, v, key_lengths=lengths).transpose(1, 2).flatten(2)
        (d_apart,) = torch.autograd.grad(apart, qkv, d_out)
    assert packed.is_contiguous()
    assert d_packed.is_contiguous()
    assert torch.equal(packed, apart)
    assert torch.equal(d_packed, d_apart)


def test_heads_are_joined_without_a_copy(triton: None) -> None:
    q = torch.randn(2, 3, 9, 32, device=DEVICE)
    assert attention(q, q, q).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("pairs", [2, 4])
def test_several_pairs_share_a_program(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = attention_launch.short_tiles
    counts = []

    def shared(queries: int, keys: int, _: int, *rest: int, backward: bool) -> Tiles:
        tiles = original(queries, keys, 2**14, *rest, backward=backward)
        counts.append(tiles.pairs)
        return replace(tiles, pairs=pairs)

    monkeypatch.setattr(attention_launch, "short_tiles", shared)
    case = Case(1, 7, 17, 20, 40, lengths=(11,))  # 7 pairs: the last program has some to spare
    check(case, *case.inputs())
    assert counts == [4, 4]


@pytest.mark.parametrize("rows", [20, 70])
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
def test_large_logits_neither_overflow_nor_vanish(rows: int, dtype: torch.dtype) -> None:
    case = Case(1, 2, rows, rows, 32, dtype)
    q, k, v = case.inputs(spread=40.0)  # logits of some thousands: each row sees one key
    with use("triton"):
        out = attention(q, k, v)
        gradients = torch.autograd.grad(out.float().sum(), (q, k, v))
    assert out.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    best = (q.double() @ k.double().mT).argmax(-1)
    expected = v.gather(2, best[..., None].expand_as(out))
    close = ((out - expected).abs() <= 0.01 * expected.abs() + 0.01).all(-1)
    assert close.float().mean() > 0.95


@pytest.mark.parametrize("keys", [9, 90])
def test_rows_without_keys_are_zero_and_pass_no_gradient(keys: int) -> None:
    case = Case(2, 2, 7, keys, 32, lengths=(0, keys))
    q, k, v = case.inputs()
    for mode in ("triton", "torch"):
        with use(mode):
            out = attention(q, k, v, key_lengths=case.key_lengths())
            gradients = torch.autograd.grad(out.sum(), (q, k, v))
        assert torch.equal(out[0], torch.zeros_like(out[0]))
        assert out[1].abs().min() > 0
        for gradient in gradients:
            assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))
            assert gradient[1].isfinite().all()


@pytest.mark.parametrize("mode", ["triton", "torch"])
@pytest.mark.parametrize("keys", [9, 90])
@pytest.mark.parametrize("filling", [1e30, float("nan")])
def test_padding_is_never_read_into_results_and_gradients(keys: int, filling: float, mode: str) -> None:
    case = Case(2, 1, 6, keys, 24, lengths=(keys - 2, 0))
    q, k, v = case.inputs()
    runs = []
    for _ in range(2):
        with use(mode):  # type: ignore[arg-type]
            out = attention(q, k, v, key_lengths=case.key_lengths())
            runs.append([out, *torch.autograd.grad(out.sum(), (q, k, v))])
        with torch.no_grad():
            for padded in (k, v):
                padded[0, :, -2:], padded[1] = filling, -filling
    for before, after in zip(*runs, strict=True):
        assert torch.equal(before, after)
    for gradient in runs[1][2:]:
        assert not gradient[0, :, -2:].any()


@pytest.mark.parametrize("keys", [9, 90])
def test_lengths_are_held_to_the_keys_before_they_are_narrowed(keys: int, triton: None) -> None:
    q, k, v = Case(3, 1, 6, keys, 16).inputs()
    huge = torch.tensor([2**32 + 1, 2**31, -(2**32) + 5], device=DEVICE)
    found = attention(q, k, v, key_lengths=huge)
    assert torch.equal(found[:2], attention(q, k, v)[:2])
    assert not found[2].any()


def test_what_the_kernels_cannot_index_is_copied_first() -> None:
    plain = torch.zeros(2, 3, 20, 16)
    assert attention_launch.indexable(plain) is plain
    sliding = torch.arange(2 * 3 * 40.0).view(2, 3, 40).unfold(2, 16, 1)
    stepped = torch.arange(2 * 3 * 20 * 32.0).view(2, 3, 20, 32)[..., ::2]
    for odd in (sliding, stepped):
        copied = attention_launch.indexable(odd)
        assert torch.equal(copied, odd)
        assert copied.is_contiguous()
    far = torch.empty(1, 2**21, 17, 64, device="meta").transpose(1, 2).contiguous().transpose(1, 2)
    assert far.stride(2) * 17 > 2**31
    assert attention_launch.indexable(far).stride(2) == 64


def test_an_output_of_millions_of_heads_stays_within_32_bits() -> None:
    for heads in (2**10, 2**21):
        q = torch.empty(1, heads, 17, 64, device="meta", dtype=BF16)
        out, _ = torch.ops.streamfer_kernels.attention(q, q, q, None, False, 0.1, False, False)
        assert out.stride(2) * 17 + 64 < 2**31
        assert out.transpose(1, 2).is_contiguous() == (heads == 2**10)
    with pytest.raises(ValueError, match="the elements of one batch element of qkv is 12884901888; expected 1 to"):
        attention_packed(torch.empty(1, 1024, 3 * 2**15 * 128, device="meta"), 2**15)


@pytest.mark.parametrize("rows", [9, 70])
def test_gradients_by_finite_differences(rows: int, triton: None) -> None:
    case = Case(1, 1, rows, rows, 16, causal=True)
    inputs = case.inputs()
    d_out = torch.randn_like(inputs[0])
    gradients = torch.autograd.grad(attention(*inputs, causal=True), inputs, d_out)
    source = torch.Generator().manual_seed(1)
    for place, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, generator=source).to(DEVICE)
        moved = []
        for step in (1e-2, -1e-2):
            values = [value.detach() for value in inputs]
            values[place] = values[place] + step * direction
            moved.append(float((attention(*values, causal=True).double() * d_out.double()).sum()))
        slope = (moved[0] - moved[1]) / 2e-2
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=5e-3, abs=5e-3)


@pytest.mark.parametrize("mode", ["triton", "torch"])
def test_deterministic_gradients_are_equal_bit_by_bit(mode: str) -> None:
    case = Case(2, 2, 70, 70, 32, BF16)
    q, k, v = case.inputs()
    d_out = torch.randn_like(q)
    with use(mode):  # type: ignore[arg-type]
        runs = [torch.autograd.grad(attention(q, k, v, deterministic=True), (q, k, v), d_out) for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)
    exact = exact_results(case, q, k, v, d_out)[1:]
    assert all(error(found, one) < TOLERANCE[BF16] for found, one in zip(runs[0], exact, strict=True))


@pytest.mark.parametrize("case", [CASES[0], CASES[8], CASES[9]], ids=str)
def test_the_fallback_is_the_same_function(case: Case) -> None:
    q, k, v = case.inputs()
    d_out = torch.randn_like(q)
    with use("torch"):
        out = attention(q, k, v, causal=case.causal, key_lengths=case.key_lengths())
        found = [out, *torch.autograd.grad(out, (q, k, v), d_out)]
    for one, other in zip(found, exact_results(case, q, k, v, d_out), strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize(
    ("head", "parts"),
    [(8, (16, 0)), (16, (16, 0)), (24, (16, 16)), (32, (32, 0)), (64, (64, 0)), (80, (64, 16)), (88, (64, 32)),
     (96, (64, 32)), (104, (64, 64)), (128, (128, 0))],
)  # fmt: skip
def test_parts_cover_a_head(head: int, parts: tuple[int, int]) -> None:
    assert head_parts(head) == parts
    assert sum(parts) >= head


def test_wide_numbers_fill_a_tile_sooner() -> None:
    assert is_short(64, 64, 96, 2)
    assert not is_short(65, 10, 64, 2)
    assert is_short(32, 32, 128, 4)
    assert not is_short(33, 32, 64, 4)
    assert not is_short(33, 32, 128, 2)
