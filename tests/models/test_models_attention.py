"""The attention switch: who runs, that results stay, that names of weights stay."""

from __future__ import annotations

import copy
import logging
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_weights

import streamfer_kernels
from streamfer.errors import ConfigError, DeviceError
from streamfer.models.attention import AttentionChoice, attend_first, attend_packed, choose_attention, use_attention
from streamfer.models.dfer_clip import build_image_encoder
from streamfer.models.inference import load_model
from streamfer.models.sizes import TemporalConfig, VisionConfig
from streamfer.models.temporal import TemporalTransformer
from streamfer.models.vision import fold_activations

needs_interpreter = pytest.mark.skipif(
    streamfer_kernels.backend_report("cpu")["obstacle"] is not None,
    reason="Triton runs on the CPU in its interpreter only (TRITON_INTERPRET=1)",
)


def test_pytorch_runs_where_nothing_was_measured() -> None:
    chosen = choose_attention("auto", "cpu")
    assert chosen.implementation == "torch"
    assert "PyTorch" in chosen.reason
    assert not chosen.open
    assert choose_attention("torch", "cpu").reason == "PyTorch: asked for"


def test_the_variable_switches_the_kernels_on_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    report = {"obstacle": None, "mode": "triton", "summary": "Triton kernels (forced)"}
    monkeypatch.setattr(streamfer_kernels, "backend_report", lambda device: report)
    assert choose_attention("auto", "cuda:0") == AttentionChoice("triton", "Triton kernels (forced)")
    report["mode"] = "auto"
    assert choose_attention("auto", "cuda:0").open
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
    for name in [name for name in sys.modules if name.startswith("streamfer_kernels")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("STREAMFER_KERNELS", "yes")
    with pytest.raises(ConfigError, match="STREAMFER_KERNELS is 'yes'; expected auto, off or on"):
        choose_attention("auto", "cpu")


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


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_the_vision_transformer_is_open_clips(quick_gelu: bool) -> None:
    from open_clip.transformer import LayerNorm, QuickGELU
    from open_clip.transformer import VisionTransformer as Theirs

    config = VisionConfig(layers=3, width=48, head_width=16, patch_size=8, image_size=32)
    activation = QuickGELU if quick_gelu else torch.nn.GELU
    torch.manual_seed(0)
    theirs = Theirs(32, 8, 48, 3, 3, 4.0, output_dim=16, act_layer=activation, norm_layer=LayerNorm).eval()
    torch.manual_seed(0)
    ours = build_image_encoder(config, 16, quick_gelu=quick_gelu).eval()
    first, second = theirs.state_dict(), ours.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases start at zero, where mistakes with them hide
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.rand(3, 3, 32, 32)
    found, expected = ours(pixels), theirs(pixels)
    assert float((found - expected).detach().norm() / expected.detach().norm()) < 1e-6
    outer = torch.randn_like(expected)
    # The keys' bias has no derivative but rounding.
    for one, other in zip(
        torch.autograd.grad(found, tuple(ours.parameters()), outer),
        torch.autograd.grad(expected, tuple(theirs.parameters()), outer),
        strict=True,
    ):
        assert float((one - other).norm() / other.norm()) < 1e-5
    folded = copy.deepcopy(ours)
    fold_activations(folded)
    assert float((folded(pixels) - expected).detach().norm() / expected.detach().norm()) < 1e-6
    ours.transformer.grad_checkpointing = True  # type: ignore[union-attr]
    assert torch.equal(ours(pixels), found)


@needs_interpreter
def test_kernels_in_the_vision_transformer_keep_results_and_derivatives() -> None:
    config = VisionConfig(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
    torch.manual_seed(0)
    tower = build_image_encoder(config, 16, quick_gelu=True).eval()
    switched = copy.deepcopy(tower)
    use_attention(switched, "triton")
    pixels = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(switched(pixels), tower(pixels), atol=1e-5, rtol=1e-4)
    switched(pixels).sum().backward()
    assert all(
        parameter.grad is not None for name, parameter in switched.named_parameters() if name.startswith("transformer.")
    )


@needs_interpreter
def test_heads_and_lengths_that_the_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the kernels were called")

    monkeypatch.setattr(streamfer_kernels, "attention_packed", refuse)
    for qkv in (torch.randn(1, 3, 3 * 2 * 5), torch.randn(1, 1025, 3 * 2 * 8)):
        torch.testing.assert_close(attend_packed(qkv, 2, "triton"), attend_packed(qkv, 2))


@needs_interpreter
def test_the_temporal_transformer_runs_the_kernels() -> None:
    torch.manual_seed(0)
    sizes = TemporalConfig(layers=2, heads=2, dim_head=8, mlp_dim=24, frames=4)
    fused = TemporalTransformer(16, sizes).eval()
    switched = copy.deepcopy(fused)
    use_attention(switched, "triton")
    features = torch.randn(2, 4, 16)
    torch.testing.assert_close(switched(features), fused(features), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_one_query_is_mixed_with_and_without_a_projection(bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 7, 24), torch.randn(3 * 4 * 8, 24)
    added = torch.randn(3 * 4 * 8) if bias else None
    whole = attend_packed(torch.nn.functional.linear(x, weight, added), 4)[:, 0]
    for lifted in (True, False, None):
        found = attend_first(x, weight, 4, added, lifted=lifted)
        assert float((found - whole).norm() / whole.norm()) < 1e-6
