"""The attention switch: who runs, that results stay, that names of weights stay."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_weights

import streamfer_kernels
from streamfer.errors import ConfigError, DeviceError
from streamfer.models.attention import (
    AttentionChoice,
    PackedAttention,
    choose_attention,
    kernel_attention,
    replace_attention,
)
from streamfer.models.loading import load_model
from streamfer.models.sizes import TemporalConfig, VisionConfig
from streamfer.models.temporal import TemporalTransformer, fused_attention
from streamfer.models.towers import build_image_encoder

FORCED = AttentionChoice("triton", "test")
needs_interpreter = pytest.mark.skipif(
    streamfer_kernels.backend_report("cpu")["obstacle"] is not None,
    reason="Triton runs on the CPU in its interpreter only (TRITON_INTERPRET=1)",
)


def test_pytorch_runs_where_nothing_was_measured() -> None:
    chosen = choose_attention("auto", "cpu")
    assert chosen.implementation == "torch"
    assert "PyTorch" in chosen.reason
    assert chosen.function is fused_attention
    assert choose_attention("torch", "cpu").reason == "PyTorch: asked for"


def test_the_variable_switches_the_kernels_on_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    report = {"obstacle": None, "mode": "triton", "summary": "Triton kernels (forced)"}
    monkeypatch.setattr(streamfer_kernels, "backend_report", lambda device: report)
    assert choose_attention("auto", "cuda:0") == AttentionChoice("triton", "Triton kernels (forced)")
    for changes in ({"mode": "torch"}, {"mode": "auto"}, {"mode": "triton", "obstacle": "CPU tensors"}):
        report.update(changes)
        assert choose_attention("auto", "cuda:0").implementation == "torch"


def test_wrong_requests_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.attention 'flash' is unknown; expected auto, torch or triton"):
        load_model(str(tiny_weights(tmp_path / "a.safetensors")), attention="flash", device="cpu")
    report = {"obstacle": "CPU tensors", "mode": "auto", "summary": ""}
    monkeypatch.setattr(streamfer_kernels, "backend_report", lambda device: report)
    with pytest.raises(DeviceError, match=r"'triton' cannot run on cpu \(CPU tensors\); use auto or torch"):
        choose_attention("triton", "cpu")


@needs_interpreter
def test_a_loaded_model_says_what_it_runs_and_gives_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tiny_weights(tmp_path / "a.safetensors"))
    crops = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    caplog.set_level(logging.INFO, "streamfer")
    models = [load_model(path, attention=name, device="cpu", precision="fp32") for name in ("torch", "triton")]
    said = [vars(entry)["attention"] for entry in caplog.records if entry.msg == "model.loaded"]
    assert said == ["torch", "triton"]
    features = [model.encode(crops) for model in models]
    torch.testing.assert_close(features[1], features[0], atol=1e-5, rtol=1e-4)
    windows = features[0][None, :4]
    torch.testing.assert_close(models[1].logits(windows), models[0].logits(windows), atol=1e-4, rtol=1e-4)


@needs_interpreter
def test_open_clips_blocks_keep_names_and_results() -> None:
    config = VisionConfig(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
    torch.manual_seed(0)
    tower = build_image_encoder(config, 16, quick_gelu=True).eval()
    switched = copy.deepcopy(tower)
    assert replace_attention(switched, AttentionChoice("torch", "")) == 0
    assert replace_attention(switched, FORCED) == 2
    assert list(switched.state_dict()) == list(tower.state_dict())
    assert sum(isinstance(module, PackedAttention) for module in switched.modules()) == 2
    pixels = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(switched(pixels), tower(pixels), atol=1e-5, rtol=1e-4)
    switched(pixels).sum().backward()
    assert all(parameter.grad is not None for parameter in switched.transformer.parameters())


@needs_interpreter
def test_masks_and_cross_attention_stay_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the kernels were called")

    torch.manual_seed(0)
    plain = torch.nn.MultiheadAttention(32, 2, batch_first=True).eval()
    packed = PackedAttention.taking_over(plain)
    x, y = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    mask = torch.ones(5, 5).triu(1).bool()
    torch.testing.assert_close(packed(x, x, x, need_weights=False)[0], plain(x, x, x)[0], atol=1e-6, rtol=1e-5)
    monkeypatch.setattr(streamfer_kernels, "attention_packed", refuse)
    masked = {"need_weights": False, "attn_mask": mask}
    torch.testing.assert_close(packed(x, x, x, **masked)[0], plain(x, x, x, **masked)[0])
    torch.testing.assert_close(packed(x, y, y, need_weights=False)[0], plain(x, y, y)[0])
    torch.testing.assert_close(packed(x, x, x)[1], plain(x, x, x)[1])


@needs_interpreter
def test_heads_that_the_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 2, 3, 5)
    torch.testing.assert_close(kernel_attention(q, q, q), fused_attention(q, q, q))
    odd = torch.nn.Sequential(torch.nn.MultiheadAttention(10, 2, batch_first=True))
    sequence_first = torch.nn.Sequential(torch.nn.MultiheadAttention(32, 2))
    assert replace_attention(odd, FORCED) == replace_attention(sequence_first, FORCED) == 0


@needs_interpreter
def test_the_temporal_transformer_takes_the_function() -> None:
    torch.manual_seed(0)
    sizes = TemporalConfig(layers=2, heads=2, dim_head=8, mlp_dim=24, frames=4)
    fused = TemporalTransformer(16, sizes).eval()
    switched = TemporalTransformer(16, sizes, FORCED.function).eval()
    switched.load_state_dict(fused.state_dict())
    features = torch.randn(2, 4, 16)
    torch.testing.assert_close(switched(features), fused(features), atol=1e-5, rtol=1e-4)
    assert tiny_model().attention is fused_attention
