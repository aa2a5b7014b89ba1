"""The transformer whose weights are laid out anew says what the plain one says, of pictures of any size."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_models import INVERTED, tiny_card, tiny_model

from streamfer.geometry import squashed_crop
from streamfer.models import packing
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.inference import DferClipModel, prepare_pixels
from streamfer.models.precision import Precision
from streamfer.models.sizes import DferClipConfig, VisionConfig

SIDE = 32
PIXELS = PixelProfile(SIDE, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


def network(*, quick_gelu: bool = True) -> DferClip:
    torch.manual_seed(0)
    vision = VisionConfig(layers=3, width=48, head_width=16, patch_size=8, image_size=SIDE)
    made = DferClip(DferClipConfig(("a", "b"), vision=vision, quick_gelu=quick_gelu)).eval()
    for parameter in made.image_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases start at zero, where mistakes with them hide
    return made


def loaded(model: DferClip, precision: Precision) -> DferClipModel:
    card = ModelCard("tiny", model.config, PIXELS, squashed_crop(SIDE), "none")
    return DferClipModel(copy.deepcopy(model), card, digest="0", precision=precision)


@pytest.mark.parametrize("side", [SIDE, 40])
@pytest.mark.parametrize(("precision", "most"), [("fp32", 2e-6), ("bf16", 2e-2)])
def test_features_are_those_of_the_plain_transformer(side: int, precision: Precision, most: float) -> None:
    plain = network()
    crops = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = plain.image_encoder(prepare_pixels(torch.from_numpy(crops), PIXELS))
    model = loaded(plain, precision)
    assert isinstance(model._packed, packing.PackedTransformer)
    found = model.encode(crops)
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < most
    assert torch.equal(model.encode(crops), found)


def test_what_cannot_be_packed_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    assert loaded(network(quick_gelu=False), "fp32")._packed is None
    packed = loaded(network(), "fp32").encode(crops)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = loaded(network(), "fp32")
    assert plain._packed is None
    torch.testing.assert_close(plain.encode(crops), packed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("bf16", 0.0)])
def test_packed_convolutions_give_the_same_features(
    precision: Precision, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_model(vision=INVERTED)
    side = INVERTED.image_size
    crops = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    packed = DferClipModel(copy.deepcopy(plain), tiny_card(plain), digest="0", precision=precision)
    assert not [layer for layer in packed._model.image_encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    found = packed.encode(crops)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    usual = DferClipModel(plain, tiny_card(plain), digest="0", precision=precision)
    assert [layer for layer in usual._model.image_encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    expected = usual.encode(crops)
    assert float(expected.std(dim=0).mean()) > 1e-3
    torch.testing.assert_close(found, expected, atol=most * float(expected.abs().max()), rtol=0)
