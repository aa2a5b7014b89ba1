"""Residual with LayerNorm and both GELUs by Triton against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import DEVICE, TOLERANCE, error
from torch.nn import functional as F

from streamfer_kernels import gelu_tanh, quick_gelu, residual_layer_norm, use

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def exact(name: str, x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x) if name == "quick" else F.gelu(x, approximate="tanh")


@pytest.mark.parametrize("mode", ["triton", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["quick", "tanh"])
def test_activations(name: str, dtype: torch.dtype, mode: str) -> None:
    x = (3 * torch.randn(3, 5, 333, device=DEVICE)).to(dtype).requires_grad_()
    d_out = torch.randn_like(x)
    wide = x.detach().double().requires_grad_()
    expected = exact(name, wide)
    with use(mode):  # type: ignore[arg-type]
        found = quick_gelu(x) if name == "quick" else gelu_tanh(x)
        (gradient,) = torch.autograd.grad(found, x, d_out)
    assert error(found, expected) < TOLERANCE[dtype]
    assert error(gradient, torch.autograd.grad(expected, wide, d_out.double())[0]) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["quick", "tanh"])
def test_activations_at_the_ends(name: str, triton: None) -> None:
    x = torch.tensor([-1e30, -60.0, 0.0, 60.0, 1e12], device=DEVICE, requires_grad=True)
    found = quick_gelu(x) if name == "quick" else gelu_tanh(x)
    found.sum().backward()
    assert torch.equal(found.detach().cpu(), torch.tensor([0.0, 0.0, 0.0, 60.0, 1e12]))
    assert x.grad is not None
    assert torch.equal(x.grad.cpu(), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9), st.integers(1, 300), st.sampled_from(DTYPES), st.booleans())
def test_residual_layer_norm(rows: int, depth: int, dtype: torch.dtype, half_weights: bool) -> None:
    source = torch.Generator().manual_seed(rows * depth)
    kind = dtype if half_weights else torch.float32
    x, residual = (
        (torch.randn(rows, depth, generator=source) * 2 + 1).to(DEVICE, dtype).requires_grad_() for _ in "xr"
    )
    weight, bias = (torch.randn(depth, generator=source).to(DEVICE, kind).requires_grad_() for _ in "wb")
    inputs = (x, residual, weight, bias)
    wide = [value.detach().double().requires_grad_() for value in inputs]
    total = wide[0] + wide[1]
    expected = (total, F.layer_norm(total, (depth,), wide[2], wide[3], 1e-3))
    outer = [torch.randn(rows, depth, generator=source).to(DEVICE, dtype) for _ in range(2)]
    slopes = torch.autograd.grad(expected, wide, [value.double() for value in outer])
    with use("triton"):
        found = residual_layer_norm(*inputs, eps=1e-3)
        gradients = torch.autograd.grad(found, inputs, outer)
    # The norm subtracts what rounding of the sum has touched: an absolute error of one rounding step of the sum.
    allowed = 4 * TOLERANCE[dtype]
    for one, other in zip((*found, *gradients), (*expected, *slopes), strict=True):
        difference = float((one.detach().double() - other.detach()).abs().max())
        assert difference <= allowed * max(1.0, float(other.detach().abs().max())), (rows, depth)


def test_the_fallback_is_the_same_function() -> None:
    x, residual = (torch.randn(4, 33, device=DEVICE).bfloat16() for _ in range(2))
    weight, bias = torch.randn(33, device=DEVICE), torch.randn(33, device=DEVICE)
    with use("triton"):
        fast = residual_layer_norm(x, residual, weight, bias)
    with use("torch"):
        plain = residual_layer_norm(x, residual, weight, bias)
    for one, other in zip(fast, plain, strict=True):
        assert one.dtype == other.dtype == torch.bfloat16
        assert error(one, other) < TOLERANCE[torch.bfloat16]


def test_gradients_of_more_rows_than_partial_sums(triton: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamfer_kernels import pointwise

    monkeypatch.setattr(pointwise, "_PARTIAL_SUMS", 3)
    x = torch.randn(10, 20, device=DEVICE)
    weight = torch.ones(20, device=DEVICE, requires_grad=True)
    bias = torch.zeros(20, device=DEVICE, requires_grad=True)
    residual_layer_norm(x, x, weight, bias)[1].sum().backward()
    assert bias.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(bias.grad, torch.full_like(bias, 10))
    torch.testing.assert_close(weight.grad, F.layer_norm(2 * x, (20,)).sum(0), atol=1e-4, rtol=1e-4)
