"""What only a GPU can show: the issue's own sizes, 64-bit offsets, CUDA graphs, Inductor.

    PYTHONPATH=kernels python -m pytest tests/kernels --confcutdir tests/kernels -m "gpu or not slow"

runs these and compiles every other test of the folder, too.
"""

from __future__ import annotations

import pytest
import torch
from references import DEVICE, Case, error
from test_attention_kernels import check

from streamfer_kernels import attention, attention_packed, use

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
    Case(2, 4, 1024, 1024, 128, BF16),
    Case(4, 4, 257, 257, 88),
    *(Case(8, 8, n, n, head, BF16) for n in (17, 50, 257) for head in (32, 64, 80, 88, 96, 128)),
]


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_the_pipelines_own_sizes(case: Case) -> None:
    torch.use_deterministic_algorithms(False)
    check(case, *case.inputs())


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

    x = torch.randn(64, 17, 512, device=DEVICE, dtype=BF16)
    with use("triton"), torch.inference_mode():
        assert error(torch.compile(step, fullgraph=True)(x), step(x)) < 1e-2


def test_memory_beside_the_outputs_is_left_alone() -> None:
    # Outputs are new tensors; their neighbours in one block of the allocator are what a stray write would hit.
    torch.use_deterministic_algorithms(False)
    case = Case(3, 5, 50, 50, 88, BF16)
    q, k, v = case.inputs()
    guard = torch.full((2**22,), 7.0, device=DEVICE)
    with use("triton"):
        for _ in range(20):
            attention(q, k, v)
    assert bool((guard == 7).all())
