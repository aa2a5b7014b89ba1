"""Temporal block and label head against modules of torch.nn in float64."""

from __future__ import annotations

import contextlib
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from references import DEVICE, TOLERANCE, error
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from streamfer_kernels import BlockWeights, LabelHead, temporal_block, use

MODES = pytest.mark.parametrize("mode", ["triton", "torch"])
DEPTH, HEADS, HEAD, HIDDEN = 40, 2, 24, 56


def random_weights(dtype: torch.dtype, seed: int = 0) -> BlockWeights:
    source = torch.Generator().manual_seed(seed)

    def random(*shape: int, around: float = 0.0) -> torch.Tensor:
        return (around + torch.randn(shape, generator=source) / shape[-1] ** 0.5).to(DEVICE, dtype)

    return BlockWeights(
        random(DEPTH, around=1), random(DEPTH), random(3 * HEADS * HEAD, DEPTH), random(DEPTH, HEADS * HEAD),
        random(DEPTH), random(DEPTH, around=1), random(DEPTH), random(HIDDEN, DEPTH), random(HIDDEN),
        random(DEPTH, HIDDEN), random(DEPTH),
    )  # fmt: skip


def exact_block(x: torch.Tensor, w: BlockWeights) -> torch.Tensor:
    """The block in float64, its attention by nn.functional.multi_head_attention_forward's own arithmetic."""
    w, x = w.to(DEVICE, torch.float64), x.double()
    inner = HEADS * HEAD
    y = F.layer_norm(x, (DEPTH,), w.norm1_weight, w.norm1_bias)
    q, k, v = (F.linear(y, w.qkv_weight[part * inner : (part + 1) * inner]) for part in range(3))
    mixed = []
    for head in range(HEADS):
        a, b, c = (part[..., head * HEAD : (head + 1) * HEAD] for part in (q, k, v))
        mixed.append((a @ b.mT / HEAD**0.5).softmax(-1) @ c)
    x = x + F.linear(torch.cat(mixed, -1), w.out_weight, w.out_bias)
    y = F.layer_norm(x, (DEPTH,), w.norm2_weight, w.norm2_bias)
    mlp = nn.GELU("tanh")(F.linear(y, w.fc1_weight, w.fc1_bias))
    return x + F.linear(mlp, w.fc2_weight, w.fc2_bias)


@MODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("windows", "tokens"), [(1, 17), (3, 5), (2, 40)])
def test_block(windows: int, tokens: int, dtype: torch.dtype, mode: str) -> None:
    weights = random_weights(dtype)
    x = torch.randn(windows, tokens, DEPTH, device=DEVICE).to(dtype)
    expected = exact_block(x, weights)
    with use(mode):  # type: ignore[arg-type]
        whole = temporal_block(x, weights, HEADS)
        first = temporal_block(x, weights, HEADS, first_token_only=True)
    assert whole.dtype == first.dtype == dtype
    # Five roundings to the dtype lie between input and output.
    assert error(whole, expected) < 2 * TOLERANCE[dtype]
    assert error(first, expected[:, 0]) < 2 * TOLERANCE[dtype]


def head_and_ring(
    dtype: torch.dtype, blocks: int
) -> tuple[LabelHead, torch.Tensor, list[torch.Tensor], list[BlockWeights]]:
    source = torch.Generator().manual_seed(9)
    weights = [random_weights(dtype, seed) for seed in range(blocks)]
    token = torch.randn(DEPTH, generator=source).to(DEVICE, dtype)
    positions = torch.randn(5, DEPTH, generator=source).to(DEVICE, dtype)
    classes = torch.randn(7, DEPTH, generator=source).to(DEVICE)
    ring = torch.randn(30, DEPTH, generator=source).to(DEVICE)
    head = LabelHead(weights, token, positions, classes, heads=HEADS, temperature=0.2)
    return head, ring, [token, positions, classes], weights


@MODES
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_label_head(blocks: int, dtype: torch.dtype, mode: str) -> None:
    head, ring, (token, positions, classes), weights = head_and_ring(dtype, blocks)
    indices = torch.randint(0, 30, (3, 4), device=DEVICE)
    assert head.frames == 4
    gathered = ring.to(dtype).double()[indices]
    x = torch.cat([token.double().expand(3, 1, -1), gathered], 1) + positions.double()
    for one in weights:
        x = exact_block(x, one)
    cosines = F.cosine_similarity(x[:, :1], classes.double()[None], dim=-1)
    expected = (cosines / 0.2).softmax(-1)
    with use(mode), torch.inference_mode():  # type: ignore[arg-type]
        found = head(ring, indices)
    assert found.dtype == torch.float32
    assert torch.allclose(found.sum(-1), torch.ones(3, device=DEVICE), atol=1e-5)
    assert float((found - expected).abs().max()) < (1e-5 if dtype == torch.float32 else 0.05)


@MODES
def test_rows_that_do_not_exist_are_seen(mode: str) -> None:
    head, ring, _, _ = head_and_ring(torch.float32, 1)
    indices = torch.tensor([[0, 1, 2, 3], [0, 30, 2, 3], [0, 1, -1, 3]], dtype=torch.int32, device=DEVICE)
    with use(mode):  # type: ignore[arg-type]
        found = head(ring[:, :DEPTH], indices)
    assert found.isnan().all(1).tolist() == [False, True, True]


def test_a_graph_needs_a_gpu() -> None:
    head, _, _, _ = head_and_ring(torch.float32, 1)
    with pytest.raises(ValueError, match="expected a CUDA device"):
        head.capture(torch.zeros(30, DEPTH), 4)


@MODES
def test_weights_taken_over_without_gradients_never_ask_for_them(mode: str) -> None:
    weights = random_weights(torch.float32)
    weights.fc2_bias.requires_grad_()
    _, ring, parts, _ = head_and_ring(torch.float32, 1)
    with torch.no_grad():
        head = LabelHead([weights], *parts, heads=HEADS, temperature=1)
    with use(mode):  # type: ignore[arg-type]
        assert not head(ring, torch.zeros(2, 4, dtype=torch.int64, device=DEVICE)).requires_grad


def test_a_graph_keeps_its_weights_and_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def stand_in(name: str) -> Any:
        @contextlib.contextmanager
        def entered(*values: Any, **named: Any) -> Any:
            seen.append((name, *values, *named.values()))
            yield

        return entered

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name in ("device", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, stand_in(name))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "graph")
    monkeypatch.setattr(LabelHead, "__call__", lambda head, ring, indices: ring.new_empty(len(indices), 7))
    head, _, _, _ = head_and_ring(torch.float32, 1)
    with FakeTensorMode():
        captured = head.capture(torch.empty(30, DEPTH, device="cuda:1"), 5)
    assert seen == [("device", torch.device("cuda:1")), ("stream", stream), ("graph", "graph", stream)]
    assert captured.indices.device == torch.device("cuda:1")
    watched = weakref.ref(head)
    del head
    gc.collect()
    assert watched() is not None


def test_wrong_weights_and_tokens_are_named() -> None:
    weights = random_weights(torch.float32)
    x = torch.zeros(1, 3, DEPTH, device=DEVICE)
    fields = {name: getattr(weights, name) for name in BlockWeights.__dataclass_fields__}
    with pytest.raises(ValueError, match=r"weights.fc2_bias has shape"):
        temporal_block(x, BlockWeights(**{**fields, "fc2_bias": weights.fc1_bias}), HEADS)
    with pytest.raises(TypeError, match=r"weights.out_weight is float64"):
        temporal_block(x, BlockWeights(**{**fields, "out_weight": weights.out_weight.double()}), HEADS)
    turned = torch.zeros(HEADS * HEAD, DEPTH, device=DEVICE).T
    with pytest.raises(ValueError, match=r"weights.out_weight has strides"):
        temporal_block(x, BlockWeights(**{**fields, "out_weight": turned}), HEADS)
    with pytest.raises(ValueError, match=r"weights.qkv_weight has 144 rows"):
        temporal_block(x, weights, 5)
    with pytest.raises(TypeError, match="weights is a dict"):
        temporal_block(x, fields, HEADS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x requires gradients; temporal_block is for inference"):
        temporal_block(x.clone().requires_grad_(), weights, HEADS)
    with pytest.raises(ValueError, match=r"x has strides"):
        temporal_block(torch.zeros(3, 1, DEPTH, device=DEVICE).expand(3, 4, DEPTH), weights, HEADS)
    head, ring, (token, positions, classes), _ = head_and_ring(torch.float32, 1)
    with pytest.raises(ValueError, match=r"indices has shape \(2, 3\)"):
        head(ring, torch.zeros(2, 3, dtype=torch.int64, device=DEVICE))
    with pytest.raises(TypeError, match="indices is float32"):
        head(ring, torch.zeros(2, 4, device=DEVICE))
    with pytest.raises(ValueError, match="temperature is 0"):
        LabelHead([weights], token, positions, classes, heads=HEADS, temperature=0)
    with pytest.raises(TypeError, match="temperature is a str"):
        LabelHead([weights], token, positions, classes, heads=HEADS, temperature="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="blocks is empty"):
        LabelHead([], token, positions, classes, heads=HEADS, temperature=1)
    with pytest.raises(TypeError, match="blocks is a BlockWeights; expected a sequence"):
        LabelHead(weights, token, positions, classes, heads=HEADS, temperature=1)  # type: ignore[arg-type]
    for name, value in fields.items():
        learning = BlockWeights(**{**fields, name: value.clone().requires_grad_()})
        with pytest.raises(ValueError, match=rf"blocks.{name} requires gradients; LabelHead is for inference"):
            LabelHead([learning], token, positions, classes, heads=HEADS, temperature=1)
