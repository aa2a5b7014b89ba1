"""Attention by Triton against float64: every shape and layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import DEVICE, TOLERANCE, Case, error, exact_attention, relaid
from torch.nn.attention import SDPBackend, sdpa_kernel

from streamfer_kernels import attention, attention_launch, attention_packed, attention_shapes, use
from streamfer_kernels.attention import run_attention
from streamfer_kernels.attention_shapes import head_parts, is_short

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32

CASES = [
    Case(2, 3, 17, 17, 64),
    Case(2, 2, 17, 17, 64, BF16),
    Case(1, 2, 50, 50, 64, BF16),
    Case(1, 1, 50, 50, 64),
    Case(1, 2, 33, 77, 88, BF16),
    Case(1, 1, 70, 97, 88),
    Case(1, 2, 32, 257, 64, FP16),
    Case(1, 1, 77, 77, 64, FP16),
    Case(3, 1, 5, 9, 32),
    Case(2, 1, 1, 1, 32),
    Case(1, 2, 1, 17, 128, BF16),
    Case(1, 1, 40, 1, 80, FP16),
    Case(1, 1, 12, 100, 96),
    Case(1, 1, 100, 12, 96, BF16),
    Case(2, 1, 6, 6, 8, scale=0.7),
]
SLOW_CASES = [
    Case(1, 2, 197, 197, 64, BF16),
    Case(1, 2, 257, 257, 88, BF16),
    Case(1, 1, 257, 257, 88),
    Case(1, 1, 1024, 1024, 128, BF16),
    Case(1, 1, 1000, 513, 80, FP16),
    *(
        Case(2, 2, n, m, e, d)
        for n, m in ((17, 17), (65, 130))
        for e in (32, 64, 80, 88, 96, 128)
        for d in (BF16, FP32)
    ),
]


def check(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """A forced Triton call against float64."""
    with use("triton"):
        out = attention(q, k, v, scale=case.scale)
    assert out.dtype == case.dtype
    assert error(out, exact_attention(q, k, v, case.scale)) <= TOLERANCE[case.dtype]


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
    queries, keys = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    case = Case(
        draw(st.integers(1, 3)), draw(st.integers(1, 3)), queries, keys,
        draw(st.sampled_from((8, 16, 24, 32, 64, 80, 88))), draw(st.sampled_from((FP32, BF16, FP16))),
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
def test_packed_equals_separate(rows: int, head: int, triton: None) -> None:
    qkv = torch.randn(2, rows, 3 * 2 * head, device=DEVICE)
    q, k, v = (part.unflatten(-1, (2, head)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    packed = attention_packed(qkv, 2)
    assert packed.is_contiguous()
    assert torch.equal(packed, attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_are_joined_without_a_copy(triton: None) -> None:
    q = torch.randn(2, 3, 9, 32, device=DEVICE)
    assert attention(q, q, q).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(
    ("batch", "tokens", "head", "windows"),
    [(7, 17, 64, 3), (1, 16, 32, 4), (5, 5, 24, 12), (2, 50, 64, 1), (3, 64, 8, 1)],
)
def test_several_windows_share_a_tile_and_keep_to_themselves(batch: int, tokens: int, head: int, windows: int) -> None:
    found = attention_shapes.window_tiles(tokens, head, 2)
    assert found.windows == windows
    assert windows * tokens <= found.rows
    qkv = torch.randn(batch, tokens, 3 * 2 * head, generator=torch.Generator().manual_seed(0)).to(DEVICE, FP16)
    q, k, v = (part.unflatten(-1, (2, head)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    exact = exact_attention(q, k, v).transpose(1, 2).flatten(2)
    with use("triton"):
        out = attention_packed(qkv, 2)
        assert error(out, exact) <= TOLERANCE[FP16]
        # What a neighbour holds changes no bit.
        qkv[-1] = 100
        assert torch.equal(attention_packed(qkv, 2)[:-1], out[:-1])


@pytest.mark.parametrize("rows", [17, 70])
def test_logits_of_minus_infinity_alone_give_zeros(rows: int) -> None:
    q = torch.ones(2, 1, rows, 16, device=DEVICE)
    with use("triton"):
        assert torch.equal(attention(q, torch.full_like(q, float("-inf")), q), torch.zeros_like(q))


@pytest.mark.parametrize("rows", [20, 70])
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
def test_large_logits_neither_overflow_nor_vanish(rows: int, dtype: torch.dtype) -> None:
    case = Case(1, 2, rows, rows, 32, dtype)
    q, k, v = case.inputs(spread=40.0)  # logits of some thousands: each row sees one key
    with use("triton"):
        out = attention(q, k, v)
    assert out.isfinite().all()
    best = (q.double() @ k.double().mT).argmax(-1)
    expected = v.gather(2, best[..., None].expand_as(out))
    close = ((out - expected).abs() <= 0.01 * expected.abs() + 0.01).all(-1)
    assert close.float().mean() > 0.95


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
        out = run_attention(q, q, q, 0.1)
        assert out.stride(2) * 17 + 64 < 2**31
        assert out.transpose(1, 2).is_contiguous() == (heads == 2**10)
    with pytest.raises(ValueError, match="the elements of one batch element of qkv is 12884901888; expected 1 to"):
        attention_packed(torch.empty(1, 1024, 3 * 2**15 * 128, device="meta"), 2**15)


@pytest.mark.parametrize("case", [CASES[0], CASES[8]], ids=str)
def test_the_fallback_is_the_same_function(case: Case) -> None:
    q, k, v = case.inputs()
    with use("torch"):
        assert error(attention(q, k, v), exact_attention(q, k, v)) < 1e-5


@pytest.mark.parametrize("mode", ["triton", "torch"])
def test_derivatives_are_pytorchs_whatever_was_forced(mode: str) -> None:
    q, k, v = (value.requires_grad_() for value in Case(1, 2, 9, 9, 16).inputs())
    tangent = torch.randn_like(q)
    packed = torch.randn(1, 9, 96, device=DEVICE, requires_grad=True)
    # The one backend of PyTorch that has forward derivatives.
    with use(mode), sdpa_kernel(SDPBackend.MATH):  # type: ignore[arg-type]
        (slope,) = torch.autograd.grad(attention(q, k, v).sum(), q, retain_graph=True)
        _, forwards, *_ = torch.func.jvp(lambda x: attention(x, k.detach(), v.detach()), (q.detach(),), (tangent,))
        (whole,) = torch.autograd.grad(attention_packed(packed, 2).sum(), packed)
    exact = q.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(exact_attention(exact, k, v).sum(), exact)
    assert error(slope, expected, 1e-3) < 1e-3
    assert float(forwards.sum()) == pytest.approx(float((expected * tangent).sum()), abs=1e-3)
    assert whole.isfinite().all()


@pytest.mark.parametrize("mode", ["triton", "torch"])
def test_an_empty_batch_gives_an_empty_batch(mode: str) -> None:
    q = torch.zeros(0, 2, 5, 16, device=DEVICE, dtype=FP16)
    with use(mode):  # type: ignore[arg-type]
        assert attention(q, q, q).shape == (0, 2, 5, 16)
        assert attention_packed(torch.zeros(0, 5, 96, device=DEVICE), 2).shape == (0, 5, 32)


@pytest.mark.parametrize(
    ("head", "parts"),
    [(8, (16, 0)), (16, (16, 0)), (24, (16, 16)), (32, (32, 0)), (64, (64, 0)), (80, (64, 16)), (88, (64, 32)),
     (96, (64, 32)), (104, (64, 64)), (128, (128, 0))],
)  # fmt: skip
def test_parts_cover_a_head(head: int, parts: tuple[int, int]) -> None:
    assert head_parts(head) == parts
    assert sum(parts) >= head


def test_wide_numbers_fill_a_tile_sooner() -> None:
    assert is_short(64, 96, 2)
    assert not is_short(65, 64, 2)
    assert is_short(32, 128, 4)
    assert not is_short(33, 64, 4)
    assert not is_short(33, 128, 2)
