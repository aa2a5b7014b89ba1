"""The architecture: golden numbers, the split for inference, prompts, positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import streamfer_kernels
from streamfer.errors import CheckpointError, ConfigError, InternalError
from streamfer.models.attention import use_attention
from streamfer.models.dfer_clip import DferClip, build_image_encoder
from streamfer.models.efficient import DEPTHS, WIDTH, EfficientNetLite, InvertedResidual
from streamfer.models.prompts import PromptConfig, PromptLearner, tokenize_prompts
from streamfer.models.sizes import DferClipConfig, TemporalConfig, TextConfig, VisionConfig
from streamfer.models.temporal import TemporalTransformer

VIT = VisionConfig(layers=2, width=32, head_width=16, patch_size=8, image_size=16)
RESNET = VisionConfig(layers=(1, 1, 1, 1), width=8, head_width=32, image_size=64)
INVERTED = VisionConfig(layers=(1, 1, 2, 1, 1, 1, 1), width=8, image_size=32, block="inverted")
TEMPORAL = TemporalConfig(layers=2, heads=2, dim_head=8, mlp_dim=24, frames=3)
CLASSES = ("a", "b", "c")


def _config(vision: VisionConfig) -> DferClipConfig:
    return DferClipConfig(CLASSES, embed_dim=16, vision=vision, temporal=TEMPORAL)


def _wave(count: int, step: float) -> torch.Tensor:
    """Numbers that no generator's version can change."""
    return (torch.arange(count, dtype=torch.float64) * step).sin().float()


def _fixed_weights(model: DferClip) -> DferClip:
    with torch.no_grad():
        for position, (name, tensor) in enumerate(sorted(model.state_dict().items())):
            if tensor.is_floating_point():
                scale = 2 / tensor[0].numel() ** 0.5 if tensor.dim() > 1 else 0.3
                tensor.copy_(scale * _wave(tensor.numel(), 2.1 + 0.013 * position).reshape(tensor.shape))
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.1)
                elif tensor.dim() == 1 and name.endswith("weight"):
                    tensor.abs_().add_(0.5)
    return model.eval()


def _fixed_clips(size: int) -> torch.Tensor:
    """Two clips, one of fine and one of coarse stripes."""
    clips = [_wave(3 * 3 * size * size, step).abs().reshape(1, 3, 3, size, size) for step in (0.37, 0.011)]
    return torch.cat(clips)


GOLDEN = {
    "vit": (VIT, [[28.6145, -12.9209, -33.0508], [28.9504, -12.1041, -32.9335]]),
    "resnet": (RESNET, [[-7.4573, -7.0394, 4.0501], [-7.4553, -7.0392, 4.0482]]),
    "inverted": (INVERTED, [[-14.2447, -19.5325, -4.3113], [-14.2443, -19.5326, -4.3117]]),
}


@pytest.mark.parametrize(("vision", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_golden_logits(vision: VisionConfig, expected: list[list[float]]) -> None:
    model = _fixed_weights(DferClip(_config(vision)))
    with torch.inference_mode():
        logits = model(_fixed_clips(vision.image_size)).logits_BC
    torch.testing.assert_close(logits, torch.tensor(expected), atol=5e-4, rtol=2e-5)


@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
def test_the_split_equals_the_whole(vision: VisionConfig) -> None:
    torch.manual_seed(0)
    model = DferClip(_config(vision)).eval()
    clips = torch.rand(2, 3, 3, vision.image_size, vision.image_size)
    with torch.inference_mode():
        whole = model(clips).logits_BC
        one_by_one = torch.cat([model.encode_frames(frame[None]) for frame in clips.flatten(0, 1)])
        split = model.window_logits(one_by_one.reshape(2, 3, -1))
    torch.testing.assert_close(split, whole, atol=1e-3, rtol=1e-4)


def test_temporal_maths_by_hand() -> None:
    torch.manual_seed(1)
    dim = 6
    net = TemporalTransformer(dim, TemporalConfig(layers=1, heads=2, dim_head=5, mlp_dim=7, frames=4)).eval()
    features = torch.randn(3, 4, dim)
    weights = dict(net.named_parameters())
    assert net.cls_token is not None
    x = torch.cat([net.cls_token.expand(3, -1, -1), features], 1) + net.pos_embedding
    at = "temporal_transformer.layers.0."
    y = F.layer_norm(x, (dim,), weights[f"{at}0.fn.norm.weight"], weights[f"{at}0.fn.norm.bias"], 1e-5)
    q, k, v = (y @ weights[f"{at}0.fn.fn.to_qkv.weight"].T).reshape(3, 5, 3, 2, 5).permute(2, 0, 3, 1, 4)
    mixed = (q @ k.mT / 5**0.5).softmax(-1) @ v
    x = x + F.linear(
        mixed.transpose(1, 2).reshape(3, 5, 10),
        weights[f"{at}0.fn.fn.to_out.0.weight"],
        weights[f"{at}0.fn.fn.to_out.0.bias"],
    )
    y = F.layer_norm(x, (dim,), weights[f"{at}1.fn.norm.weight"], weights[f"{at}1.fn.norm.bias"], 1e-5)
    y = F.linear(y, weights[f"{at}1.fn.fn.net.0.weight"], weights[f"{at}1.fn.fn.net.0.bias"])
    y = 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
    x = x + F.linear(y, weights[f"{at}1.fn.fn.net.3.weight"], weights[f"{at}1.fn.fn.net.3.bias"])
    torch.testing.assert_close(net(features), x[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layers", "heads", "dim"), [(1, 8, 512), (1, 4, 256), (2, 3, 40)])
def test_the_class_token_alone_is_what_the_whole_layer_gives(layers: int, heads: int, dim: int) -> None:
    torch.manual_seed(3)
    net = TemporalTransformer(dim, TemporalConfig(layers=layers, heads=heads))
    assert net.cls_token is not None
    features = torch.randn(5, 16, dim, requires_grad=True)

    def whole(features_BTD: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([net.cls_token.expand(len(features_BTD), -1, -1), features_BTD], dim=1)  # type: ignore[union-attr]
        return net.temporal_transformer(tokens + net.positions(16))[:, 0]  # type: ignore[no-any-return]

    outer = torch.randn(5, dim)
    found, expected = net(features), whole(features)
    assert float((found - expected).detach().norm() / expected.detach().norm()) < 1e-6
    learned = (features, *net.parameters())
    for one, other in zip(
        torch.autograd.grad(found, learned, outer), torch.autograd.grad(expected, learned, outer), strict=True
    ):
        assert float((one - other).norm() / other.norm()) < 1e-5


def test_attention_is_switched_everywhere_but_where_one_token_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def plain(qkv: torch.Tensor, heads: int, backend: str) -> torch.Tensor:
        calls.append((*qkv.shape, heads, backend))
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        read: torch.Tensor = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return read

    monkeypatch.setattr(streamfer_kernels, "attention_packed", plain)
    torch.manual_seed(0)
    model = DferClip(_config(VIT)).eval()
    features, pixels = torch.randn(2, 3, 16), torch.rand(2, 3, VIT.image_size, VIT.image_size)
    expected = model.window_logits(features), model.encode_frames(pixels)
    assert not calls
    use_attention(model, "triton")
    torch.testing.assert_close(model.window_logits(features), expected[0], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(model.encode_frames(pixels), expected[1], atol=1e-5, rtol=1e-4)
    # The last layer of either transformer is read at the class token alone, which needs no kernel.
    assert isinstance(VIT.layers, int)
    assert [call[0] for call in calls] == [2] * (1 + VIT.layers - 1)
    assert {call[-1] for call in calls} == {"triton"}


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 32])
def test_positions_of_other_lengths(frames: int) -> None:
    net = TemporalTransformer(4, TemporalConfig(layers=1, heads=1, dim_head=4, mlp_dim=4, frames=3))
    positions = net.positions(frames)
    assert positions.shape == (1, frames + 1, 4)
    assert torch.equal(positions[:, :2], net.pos_embedding[:, :2])
    if frames > 1:
        torch.testing.assert_close(positions[:, -1], net.pos_embedding[:, -1])
    if frames == 7:  # positions 1, 2, 3 stretched over seven frames: the fourth is the second
        torch.testing.assert_close(positions[:, 4], net.pos_embedding[:, 2])


@pytest.mark.parametrize("class_specific", [True, False])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_prompts(class_specific: bool, position: str) -> None:
    torch.manual_seed(0)
    ids = tokenize_prompts(["a smile.", "a long face.", "tears"], contexts=3, context_length=20)
    table = torch.randn(49408, 5)
    learner = PromptLearner(PromptConfig(3, class_specific, position), ids, table)  # type: ignore[arg-type]
    prompts = learner()
    assert prompts.shape == (3, 20, 5)
    for row, length in enumerate(learner.description_lengths):
        context = learner.ctx[row] if class_specific else learner.ctx
        start = {"end": 1, "middle": 1, "front": 1 + length}[position]
        assert torch.equal(prompts[row, 0], table[49406])
        assert torch.equal(prompts[row, start], context[0]) or position == "middle"
        assert torch.equal(prompts[row, 4 + length], table[49407])
        assert int(learner.eot_C[row]) == 4 + length
        words = {"end": slice(4, 4 + length), "middle": slice(2, 2 + length), "front": slice(1, 1 + length)}[position]
        assert torch.equal(prompts[row, words], table[ids[row, 4 : 4 + length]])
    prompts.sum().backward()
    assert learner.ctx.grad is not None
    assert [name for name, _ in learner.named_parameters()] == ["ctx"]


def test_official_end_positions() -> None:
    # facts of the released tokenizer: class names take two tokens with the full stop, disgust three
    ids = tokenize_prompts(["happiness.", "disgust.", "helplessness."], contexts=8)
    assert (ids.argmax(dim=1) - 9).tolist() == [2, 3, 4]
    assert ids[0, :11].tolist() == [49406, *[343] * 8, int(ids[0, 9]), 269]


def test_a_prompted_model_bakes_to_the_same_logits() -> None:
    torch.manual_seed(0)
    ids = tokenize_prompts(["happy.", "sad.", "cross."], contexts=2, context_length=12)
    prompts = PromptLearner(PromptConfig(2), ids, torch.randn(49408, 32))
    model = DferClip(_config(VIT), prompts=prompts, text=TextConfig(2, 32, 2, 12))
    clips = torch.rand(2, 3, 3, 16, 16)
    baked = model.bake()
    torch.testing.assert_close(baked(clips).logits_BC, model(clips).logits_BC, atol=1e-3, rtol=1e-4)
    assert {name.split(".")[0] for name in baked.state_dict()} == {"image_encoder", "temporal_net", "text_features"}
    model(clips).logits_BC.sum().backward()
    assert prompts.ctx.grad is not None
    assert prompts.ctx.grad.abs().sum() > 0


def test_sizes_and_names_of_the_published_model() -> None:
    prompts = PromptLearner(PromptConfig(), tokenize_prompts(list("abcdefg"), 8), torch.zeros(49408, 512))
    with torch.device("meta"):
        model = DferClip(DferClipConfig(tuple("abcdefg")), prompts=prompts, text=TextConfig())
    assert sum(tensor.numel() for tensor in model.image_encoder.parameters()) == 87_849_216
    assert sum(tensor.numel() for tensor in model.temporal_net.parameters()) == 2_110_464
    assert prompts.ctx.numel() == 28_672
    # 618 names of an official checkpoint less its second copy of CLIP (302)
    assert len(model.state_dict()) == 316


@pytest.mark.parametrize("channels", [1, 3])
def test_the_small_tower_is_timms(channels: int) -> None:
    from timm import create_model

    torch.manual_seed(5)
    theirs = create_model("efficientnet_lite0", num_classes=16, in_chans=channels, bn_eps=1e-3).eval()
    ours = EfficientNetLite(DEPTHS, WIDTH, 16, channels=channels).eval()
    names = {name: name.replace("classifier.", "fc.") for name in theirs.state_dict()}
    assert list(names.values()) == list(ours.state_dict())
    ours.load_state_dict({names[name]: tensor for name, tensor in theirs.state_dict().items()})
    pixels = torch.rand(3, channels, 80, 80, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(pixels), theirs(pixels), atol=1e-4, rtol=1e-4)


def test_blocks_are_dropped_in_training_alone() -> None:
    encoder = build_image_encoder(INVERTED, 16, quick_gelu=False).train()
    block = next(m for m in encoder.modules() if isinstance(m, InvertedResidual) and m.shortcut)
    features = torch.rand(64, block.conv_pw.in_channels, 4, 4)
    block.drop = 0.5
    left_alone = (block(features) == features).flatten(1).all(1)
    assert 16 <= int(left_alone.sum()) <= 48
    assert not bool((block.eval()(features) == features).flatten(1).all(1).any())


def test_action_units_are_read_from_every_frame() -> None:
    config = replace(_config(VIT), action_units=("AU01", "AU12"))
    model = DferClip(config).eval()
    assert model.action_head is not None
    with torch.no_grad():
        model.action_head.weight.copy_(_wave(32, 2.3).reshape(2, 16))
        model.action_head.bias.copy_(torch.tensor([0.25, -2.0]))
        features = _wave(48, 0.7).reshape(3, 16)
        read = model.action_intensities(features)
    expected = 1 / (1 + torch.exp(-(features @ model.action_head.weight.T + model.action_head.bias)))
    torch.testing.assert_close(read, expected.detach())
    assert read.shape == (3, 2)
    assert DferClip(_config(VIT)).action_intensities(features).shape == (3, 0)


def test_baking_keeps_the_action_head() -> None:
    config = replace(_config(VIT), action_units=("AU01", "AU12"))
    ids = tokenize_prompts(["a", "b", "c"], 2, 10)
    prompts = PromptLearner(PromptConfig(2), ids, torch.randn(49408, 8))
    model = DferClip(config, prompts=prompts, text=TextConfig(1, 8, 1, 10)).eval()
    features = torch.randn(5, 16)
    torch.testing.assert_close(model.bake().action_intensities(features), model.action_intensities(features))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PromptConfig(position="side"), ConfigError, "prompt.position"),  # type: ignore[arg-type]
        (lambda: PromptConfig(contexts=0), ConfigError, "prompt.contexts"),
        (lambda: VisionConfig(layers=(1, 2)), CheckpointError, "vision.layers"),
        (lambda: VisionConfig(width=100), CheckpointError, "head_width"),
        (lambda: VisionConfig(image_size=16), CheckpointError, "image_size"),
        (lambda: VisionConfig(layers=(2,)), CheckpointError, "vision.layers"),
        (lambda: VisionConfig(block="inverted"), CheckpointError, "expected 7 stage depths"),
        (lambda: VisionConfig(layers=(1, 1, 1, 1), block="inverted"), CheckpointError, "expected 7 stage depths"),
        (lambda: VisionConfig(layers=(1,) * 7, image_size=31, block="inverted"), CheckpointError, "least 32"),
        (lambda: DferClipConfig(("a", "a")), CheckpointError, "different names"),
        (lambda: DferClipConfig(CLASSES, action_units=("AU6",)), CheckpointError, "'AU6'; expected AU and two digits"),
        (lambda: DferClipConfig(CLASSES, action_units=("AU06", "AU06")), CheckpointError, "action_units"),
        (lambda: DferClipConfig(CLASSES, temperature=0), CheckpointError, "temperature"),
        (lambda: tokenize_prompts(["word " * 80], 8), ConfigError, "shorten"),
        (lambda: DferClip(_config(VIT), text=TextConfig()), InternalError, "together"),
    ],
)
def test_wrong_configurations_are_named(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]
