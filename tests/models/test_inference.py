"""The model behind the seam: pixels, calibration, and results that do not depend on the batch."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from fakes.models import FakeExpressionModel
from numpy.typing import NDArray
from tiny_models import INVERTED, RESNET, tiny_card, tiny_model
from torch import nn
from torch.nn import functional as F

from streamfer.errors import ConfigError, InternalError
from streamfer.models.card import PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.efficient import fold_norms
from streamfer.models.expression import ExpressionModel
from streamfer.models.inference import DferClipModel, prepare_pixels
from streamfer.models.precision import Precision
from streamfer.models.prompts import PromptConfig, PromptLearner, tokenize_prompts
from streamfer.models.sizes import TextConfig, VisionConfig


def _loaded(*, resnet: bool = False, precision: Precision = "fp32", calibration: float = 1.0) -> DferClipModel:
    model = tiny_model(resnet=resnet)
    card = tiny_card(model, calibration_temperature=calibration)
    return DferClipModel(model, card, digest="0" * 64, precision=precision)


def _crops(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_pixels_are_zero_to_one_without_clip_normalisation() -> None:
    crops = _crops(2, 32)
    pixels = prepare_pixels(torch.from_numpy(crops), PixelProfile(size=32))
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels.permute(0, 2, 3, 1).numpy(), crops / 255, atol=1e-7)


def test_a_profile_normalises_and_resizes() -> None:
    flat = np.full((1, 20, 10, 3), 51, dtype=np.uint8)
    profile = PixelProfile(size=8, mean=(0.1, 0.2, 0.3), std=(0.1, 0.2, 0.5))
    pixels = prepare_pixels(torch.from_numpy(flat), profile)
    assert pixels.shape == (1, 3, 8, 8)
    np.testing.assert_allclose(pixels[0, :, 3, 3].numpy(), [1.0, 0.0, -0.2], atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area"])
def test_resized_pixels_stay_in_range(interpolation: str) -> None:
    crops = torch.from_numpy((_crops(3, 40) > 127).astype(np.uint8) * 255)
    pixels = prepare_pixels(crops, PixelProfile(size=13, interpolation=interpolation))  # type: ignore[arg-type]
    assert pixels.shape == (3, 3, 13, 13)
    assert 0 <= pixels.min() <= pixels.max() <= 1


@pytest.mark.parametrize("resnet", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_probabilities_do_not_depend_on_the_batch(resnet: bool, precision: Precision, tolerance: float) -> None:
    model = _loaded(resnet=resnet, precision=precision)
    crops = _crops(32, model.info.crop.size)
    whole = model.encode(crops)
    assert whole.dtype == torch.float32
    assert float(whole.std(dim=0).mean()) > 1e-3  # different crops, different features
    expected = model.classify(whole.reshape(8, 4, -1))
    for size in (1, 2, 3, 5, 8, 16):
        parts = torch.cat([model.encode(crops[start : start + size]) for start in range(0, 32, size)])
        windows = parts.reshape(8, 4, -1)
        one_by_one = np.concatenate([model.classify(window[None]) for window in windows])
        np.testing.assert_allclose(one_by_one, expected, atol=tolerance)


@pytest.mark.parametrize("resnet", [False, True])
def test_bf16_agrees_with_fp32(resnet: bool) -> None:
    exact, rounded = _loaded(resnet=resnet), _loaded(resnet=resnet, precision="bf16")
    assert (exact.info.precision, rounded.info.precision) == ("fp32", "bf16")
    crops = _crops(8, exact.info.crop.size)
    alike = F.cosine_similarity(exact.encode(crops), rounded.encode(crops), dim=-1)
    assert float(alike.min()) > 0.99


def test_calibration_softens_and_keeps_the_order() -> None:
    plain, soft = _loaded(), _loaded(calibration=3.0)
    windows = plain.encode(_crops(8, 32)).reshape(2, 4, -1)
    p, q = plain.classify(windows), soft.classify(windows)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(q, (plain.logits(windows) / 3).softmax(-1).numpy(), atol=1e-6)
    assert (p.argsort() == q.argsort()).all()
    assert (q.max(axis=1) < p.max(axis=1)).all()


def test_it_equals_the_trainable_model() -> None:
    network = tiny_model()
    crops = _crops(4, 32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(crops).permute(0, 3, 1, 2)[None] / 255).logits_BC
    model = DferClipModel(network, tiny_card(network), digest="")
    torch.testing.assert_close(model.logits(model.encode(crops)[None]), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("vision", [RESNET, INVERTED], ids=["bottleneck", "inverted"])
def test_folded_norms_leave_the_features_as_they_were(vision: VisionConfig) -> None:
    network = tiny_model(vision=vision)
    folded = deepcopy(network)
    fold_norms(folded.image_encoder)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    pixels = torch.rand(8, 3, vision.image_size, vision.image_size)
    with torch.inference_mode():
        before, after = network.encode_frames(pixels), folded.encode_frames(pixels)
    assert float(before.std(dim=0).mean()) > 1e-3
    torch.testing.assert_close(after, before, atol=1e-5 * float(before.abs().max()), rtol=0)


def test_a_norm_without_a_convolution_cannot_be_folded() -> None:
    with pytest.raises(InternalError, match="no convolution"):
        fold_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_action_units_are_read_frame_by_frame(precision: Precision) -> None:
    network = tiny_model(actions=("AU01", "AU06", "AU12"))
    expected_head = deepcopy(network.action_head)
    card = tiny_card(network, action_thresholds=(0.5, 0.25, 0.5))
    model = DferClipModel(network, card, digest="", precision=precision)
    assert (model.info.action_units, model.info.action_thresholds) == (("AU01", "AU06", "AU12"), (0.5, 0.25, 0.5))
    features = model.encode(_crops(6, 32))
    read = model.actions(features)
    assert (str(read.dtype), read.shape) == ("float32", (6, 3))
    assert expected_head is not None
    with torch.inference_mode():
        expected = expected_head(features).sigmoid()
    np.testing.assert_allclose(read, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(model.actions(features[2:3]), read[2:3], atol=1e-6)


def test_a_model_without_action_units_reads_none() -> None:
    model = _loaded()
    assert model.info.action_units == ()
    assert model.actions(model.encode(_crops(2, 32))).shape == (2, 0)


@pytest.mark.parametrize("resnet", [False, True])
def test_crops_in_a_tensor_are_those_of_the_array(resnet: bool) -> None:
    model, crops = _loaded(resnet=resnet), _crops(3, 32)
    assert model.info.takes_tensors
    torch.testing.assert_close(model.encode(torch.from_numpy(crops)), model.encode(crops), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="expected uint8"):
        model.encode(torch.zeros(1, 32, 32, 3))


def test_nothing_in_nothing_out() -> None:
    model = _loaded()
    assert model.encode(_crops(0, 32)).shape == (0, 16)
    assert model.classify(torch.empty(0, 4, 16)).shape == (0, 3)
    assert model.actions(torch.empty(0, 16)).shape == (0, 0)


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((1, 32, 32, 3), dtype=np.float32),
        np.zeros((32, 32, 3), dtype=np.uint8),
        np.zeros((1, 32, 16, 3), dtype=np.uint8),
        np.zeros((1, 3, 32, 32), dtype=np.uint8),
    ],
)
def test_wrong_crops_are_named(crops: NDArray[np.uint8]) -> None:
    with pytest.raises(ConfigError, match="expected uint8"):
        _loaded().encode(crops)


def test_prompts_have_to_be_baked() -> None:
    config = tiny_model().config
    ids = tokenize_prompts(["a", "b", "c"], 2, 10)
    prompted = DferClip(
        config, prompts=PromptLearner(PromptConfig(2), ids, torch.randn(49408, 8)), text=TextConfig(1, 8, 1, 10)
    )
    with pytest.raises(InternalError, match="bake"):
        DferClipModel(prompted, tiny_card(prompted), digest="")


def test_the_fake_is_a_model_that_counts() -> None:
    fake = FakeExpressionModel(frames=4)
    assert isinstance(fake, ExpressionModel)
    crops = _crops(6, 32)
    whole = fake.encode(crops)
    again = torch.cat([fake.encode(crop[None]) for crop in crops])
    assert torch.equal(whole, again)
    assert (fake.encoded, fake.batches) == (12, [6, 1, 1, 1, 1, 1, 1])
    assert len(set(fake.seen)) == 6
    bright = np.full((4, 32, 32, 3), 20, dtype=np.uint8)
    bright[:, :4] = 255
    probabilities = fake.classify(fake.encode(bright)[None])
    assert fake.info.classes[int(probabilities.argmax())] == "happiness"
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert fake.classify(torch.empty(0, 4, 7)).shape == (0, 7)
    assert fake.actions(fake.encode(bright)).shape == (4, 0)
    reading = FakeExpressionModel(action_units=("AU12", "AU06"))
    np.testing.assert_allclose(reading.actions(reading.encode(bright)), fake.encode(bright)[:, :2])
