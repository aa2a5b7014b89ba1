"""What only a GPU can show: the issue's own sizes, 64-bit offsets, CUDA graphs, Inductor.

    PYTHONPATH=kernels python -m pytest tests/kernels --confcutdir tests/kernels -m "gpu or not slow"

runs these and compiles every other test of the folder, too.
"""

from __future__ import annotations

import pytest
import torch
from references import DEVICE, TOLERANCE, Case, error
from test_attention_kernels import check
from test_label_head import DEPTH, head_and_ring

from streamfer_kernels import attention, attention_packed, crop_faces, use

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device and compiled kernels"),
]
BF16 = torch.bfloat16

SIZES = [
    Case(512, 8, 17, 17, 64, BF16),
    Case(128, 12, 50, 50, 64, BF16),
    Case(32, 12, 197, 197, 64, BF16),
    Case(16, 16, 257, 257, 88, BF16),
    Case(16, 16, 257, 257, 64, torch.float16),
    Case(64, 12, 32, 257, 64, BF16),
    Case(16, 8, 77, 77, 64, BF16, causal=True),
    Case(2, 4, 1024, 1024, 128, BF16),
    Case(4, 4, 257, 257, 88),
    *(Case(8, 8, n, n, head, BF16) for n in (17, 50, 257) for head in (32, 64, 80, 88, 96, 128)),
]


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_the_pipelines_own_sizes(case: Case) -> None:
    torch.use_deterministic_algorithms(False)
    check(case, *case.inputs())


@pytest.mark.parametrize("rows", [17, 70])
def test_tf32_is_used_only_when_allowed(rows: int) -> None:
    case = Case(4, 4, rows, rows, 64)
    q, k, v = (value.detach() for value in case.inputs())
    exact = (q.double() @ k.double().mT / 8).softmax(-1) @ v.double()
    with use("triton"):
        assert error(attention(q, k, v), exact) < TOLERANCE[torch.float32]
        assert 1e-6 < error(attention(q, k, v, allow_tf32=True), exact) < 2e-3


def test_two_million_pairs_and_offsets_beyond_32_bits() -> None:
    torch.use_deterministic_algorithms(False)
    # 2^18 windows x 8 heads of 17 tokens: 2^21 pairs; the packed projection has 6.8e9 elements.
    qkv = torch.empty(2**18, 17, 3 * 8 * 64, dtype=BF16, device=DEVICE)
    for part in qkv.chunk(64):
        part.normal_()
    with use("triton"):
        out = attention_packed(qkv, 8)
        for rows in (slice(0, 2), slice(-2, None)):
            assert torch.equal(out[rows], attention_packed(qkv[rows].contiguous(), 8))


@pytest.mark.parametrize("windows", [1, 256])
@pytest.mark.parametrize("mode", ["triton", "torch"])
def test_a_captured_head_follows_ring_and_indices(windows: int, mode: str) -> None:
    torch.use_deterministic_algorithms(False)
    head, ring, _, _ = head_and_ring(BF16, 2)
    with use(mode):  # type: ignore[arg-type]
        captured = head.capture(ring, windows)
        for seed in range(3):
            torch.manual_seed(seed)
            ring.copy_(torch.randn(30, DEPTH))
            indices = torch.randint(0, 30, (windows, 4), device=DEVICE)
            found = captured(indices).clone()
            torch.testing.assert_close(found, head(ring, indices), atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="indices has shape"):
        captured(indices[:, :3])


def test_a_captured_head_outlives_the_head() -> None:
    torch.use_deterministic_algorithms(False)
    head, ring, _, _ = head_and_ring(BF16, 1)
    indices = torch.randint(0, 30, (8, 4), device=DEVICE)
    with use("triton"):
        expected, captured = head(ring, indices), head.capture(ring, 8)
    del head
    waste = [torch.full((2**14,), float("nan"), device=DEVICE) for _ in range(200)]
    assert torch.equal(captured(indices), expected)
    assert len(waste) == 200


def test_two_million_heads_of_one_batch_element() -> None:
    torch.use_deterministic_algorithms(False)
    q = torch.randn(1, 2**21, 17, 64, dtype=BF16, device=DEVICE)  # rows of a joined output would be 2^27 apart
    with use("triton"):
        out = attention(q, q, q)
        for heads in (slice(0, 2), slice(-2, None)):
            assert torch.equal(out[:, heads], attention(q[:, heads], q[:, heads], q[:, heads]))


def test_inductor_compiles_around_the_operators() -> None:
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()
    layer = torch.nn.Linear(512, 3 * 512, device=DEVICE, dtype=BF16)

    def step(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(attention_packed(layer(x), 8))

    x = torch.randn(64, 17, 512, device=DEVICE, dtype=BF16, requires_grad=True)
    with use("triton"):
        expected = step(x)
        found = torch.compile(step, fullgraph=True)(x)
        (slope,) = torch.autograd.grad(expected.float().sum(), x)
        (compiled,) = torch.autograd.grad(found.float().sum(), x)
    assert error(found, expected) < 1e-2
    assert error(compiled, slope) < 2e-2


def test_crops_from_full_hd() -> None:
    torch.use_deterministic_algorithms(False)
    frames = torch.randint(0, 256, (4, 1620, 1920), dtype=torch.uint8, device=DEVICE)
    matrices = torch.zeros(64, 2, 3, device=DEVICE)
    matrices[:, 0, 0] = matrices[:, 1, 1] = torch.linspace(0.4, 1.5, 64)
    matrices[:, 0, 1] = torch.linspace(-0.3, 0.3, 64)
    matrices[:, 1, 0] = -matrices[:, 0, 1]
    matrices[:, :, 2] = -torch.rand(64, 2, device=DEVICE) * 400
    index = torch.arange(64, device=DEVICE) % 4
    crops = []
    for mode in ("triton", "torch"):
        with use(mode):  # type: ignore[arg-type]
            crops.append(crop_faces(frames, matrices, 224, frame_index=index, pixel_format="nv12"))
    assert float((crops[0] - crops[1]).abs().mean()) < 1e-3


def test_memory_beside_the_outputs_is_left_alone() -> None:
    # Outputs are new tensors; their neighbours in one block of the allocator are what a stray write would hit.
    torch.use_deterministic_algorithms(False)
    case = Case(3, 5, 50, 50, 88, BF16)
    q, k, v = (value.detach() for value in case.inputs())
    guard = torch.full((2**22,), 7.0, device=DEVICE)
    with use("triton"):
        for _ in range(20):
            attention(q, k, v)
    assert bool((guard == 7).all())
