"""The mini model's export: what it measures, the file it writes, and that the shipped one calls a smile happiness."""

from __future__ import annotations

from pathlib import Path

import cv2
import mini_corpus
import numpy as np
import pytest
import skimage.data
import torch

import streamfer
from streamfer.errors import ConfigError
from streamfer.geometry import loose_crop
from streamfer.models.card import ModelCard
from streamfer.models.dfer_clip import DferClip
from streamfer.models.inference import prepare_pixels
from streamfer.models.weights import read_weights
from streamfer_builtin.mini import abstain, card, clips, data, export, joint, measure, renders, shipping
from streamfer_builtin.mini.recipe import Recipe
from streamfer_builtin.render.actions import ACTION_UNITS

#: A little below what was measured on the pictures set aside (docs/results/mini.md).
LEAST = {"clear": 0.80, "clear_uar": 0.65, "faces": 0.80, "units": 0.90}
SHIPPED = Path(streamfer.__file__).parent / "weights" / "mini.safetensors"


@pytest.fixture(scope="module")
def shipped() -> tuple[DferClip, ModelCard]:
    return read_weights(SHIPPED)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny recipe all of whose training stages have run."""
    recipe = mini_corpus.recipe(tmp_path_factory.mktemp("mini"))
    corpus, rendered = mini_corpus.corpus(), mini_corpus.clips(29)
    joint.train(recipe, corpus, rendered)
    clips.train(recipe, corpus, rendered, mini_corpus.clips(15, seed=1))
    return recipe


def test_a_folded_kernel_reads_luma_and_keeps_its_answer_on_grey() -> None:
    kernel = torch.randn(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    folded = shipping.fold_luma(kernel)
    grey = torch.rand(1, 1, 8, 8)
    assert torch.allclose(torch.conv2d(grey, kernel), torch.conv2d(grey.expand(-1, 3, -1, -1), folded), atol=1e-4)
    # Red light and green light of the same luma are the same picture.
    red, green = torch.zeros(2, 1, 3, 8, 8)
    red[:, 0], green[:, 1] = 0.5, 0.5 * 0.299 / 0.587
    assert torch.allclose(torch.conv2d(red, folded), torch.conv2d(green, folded), atol=1e-5)


def test_the_tight_crop_is_the_loose_one_about_its_centre() -> None:
    loose, tight = np.array(loose_crop(128).landmarks), np.array(export.tight_crop(48).landmarks)
    assert np.allclose(tight, (loose - 64) * 59.08 / 128 + 24)
    assert np.allclose(np.array(export.tight_crop(96).landmarks), 2 * tight)


def test_the_shipped_network_is_the_trained_one(finished: Recipe) -> None:
    first, _ = joint.read_joint(finished)
    second, _ = clips.read_clips(finished)
    model = shipping.shipped_model(first, second, finished.sizes)
    crops = torch.rand(32, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = first.encode(crops)
        assert torch.allclose(model.encode_frames(crops.expand(-1, 3, -1, -1)), features, atol=2e-2)
        assert torch.allclose(model.action_intensities(features), first.action_head(features).sigmoid(), atol=2e-3)
        expected = second(features.view(2, 16, -1))[0]
        assert torch.allclose(model.window_logits(features.view(2, 16, -1)), expected, atol=5e-2)


def test_export_writes_a_model_and_a_card_with_its_numbers(
    finished: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renders, "load", lambda _folder, split, limit=None: mini_corpus.clips(29, seed=len(split)))
    monkeypatch.setattr(export, "digests", lambda _data: {"fer2013/val.parquet": "0" * 64})
    monkeypatch.setattr(measure, "speed", lambda _model: {"threads": 1, "crops_per_second": 400, "ms_per_window": 1.5})
    to = tmp_path / "mini.safetensors"
    export.export(finished, mini_corpus.corpus(), to, "2026-11-21", views=2)
    model, described = read_weights(to)
    assert described.crop == export.tight_crop(48)
    assert described.config.action_units == ACTION_UNITS
    assert len(described.action_thresholds) == len(ACTION_UNITS)
    assert described.abstention.min_side in abstain.SIDES
    metrics = described.train["metrics"]
    last = mini_corpus.corpus().last_val
    assert metrics["fer2013"]["still"]["count"] == len(last)
    assert metrics["clear"]["still"]["count"] == int(last.clear.sum()) == metrics["calibration"]["reported_on"]
    # The accuracy that the card tells is the file's own.
    pixels = prepare_pixels(last.pixels[..., None].expand(-1, -1, -1, 3), described.pixels)
    with torch.no_grad():
        features = model.encode_frames(pixels)
        predicted = model.window_logits(features[:, None].expand(-1, 16, -1)).argmax(1)
    accuracy = float((predicted == last.labels).float().mean())
    assert metrics["fer2013"]["still"]["accuracy"] == pytest.approx(accuracy, abs=0.03)
    card.write(described, to.stat().st_size, to.with_suffix(".md"))
    text = to.with_suffix(".md").read_text()
    assert f"| {100 * metrics['fer2013']['still']['accuracy']:.1f} |" in text
    assert "400 crops a second" in text
    assert "$" not in text
    assert "nan" not in text


def test_a_stage_out_of_order_says_which_comes_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"joint\.pt: no checkpoint; run `python -m streamfer_builtin\.mini joint`"):
        export.export(mini_corpus.recipe(tmp_path), mini_corpus.corpus(), tmp_path / "m.safetensors", "2026-11-21")


def test_a_probe_sees_order_only_where_there_is_order() -> None:
    rendered = mini_corpus.clips(84)
    ramp = torch.from_numpy(rendered.envelope.astype(np.float32))[..., None]
    windows = torch.cat([ramp, ramp.roll(1, 1), torch.ones_like(ramp)], -1)
    ordered = measure._probe(lambda w: w[:, -1] - w[:, 0], rendered, windows, rendered, windows)
    blind = measure._probe(lambda w: w.mean(1), rendered, windows, rendered, windows)
    assert ordered["accuracy"] > 0.95
    assert blind["accuracy"] < 0.7


def test_the_shipped_card(shipped: tuple[DferClip, ModelCard]) -> None:
    described = shipped[1]
    assert described.name == "mini"
    assert described.config.classes == data.CLASSES
    assert described.pixels.size == described.config.vision.image_size >= described.crop.size
    assert described.pixels.mean == described.pixels.std == (0.5, 0.5, 0.5)
    assert 0 < described.config.temperature < 1
    assert 0.1 < described.calibration_temperature < 10
    assert "research" in described.licence
    assert described.train["date"]
    assert set(described.train["data"]) >= {"fer2013/train.parquet", "fer2013/val.parquet", "faces/faces.parquet"}
    assert "fer2013/ferplus_train.parquet" in described.train["data"]


def test_the_shipped_numbers_are_within_the_bounds_that_the_results_state(shipped: tuple[DferClip, ModelCard]) -> None:
    metrics = shipped[1].train["metrics"]
    assert metrics["clear"]["still"]["accuracy"] > LEAST["clear"]
    assert metrics["clear"]["still"]["uar"] > LEAST["clear_uar"]
    assert metrics["faces"]["still"]["accuracy"] > LEAST["faces"]
    assert metrics["action_units"]["photographs"]["mean_auc"] > LEAST["units"]
    assert all(ways["as it is"]["AU43"] <= 0.05 for ways in metrics["action_units"]["false_share"].values())


def test_the_shipped_model_abstains(shipped: tuple[DferClip, ModelCard]) -> None:
    limits = shipped[1].abstention
    assert limits.min_side is not None
    assert 10 <= limits.min_side <= 32
    assert limits.min_probability is not None
    assert 0.2 <= limits.min_probability <= 0.6


def test_the_shipped_tensors_have_the_published_names(shipped: tuple[DferClip, ModelCard]) -> None:
    assert SHIPPED.stat().st_size <= 15 * 2**20
    weights = shipped[0].state_dict()
    dim, inner = 256, 4 * 64
    block = "temporal_net.temporal_transformer.layers.0"
    expected = {
        "text_features": (7, dim),
        "temporal_net.cls_token": (1, 1, dim),
        "temporal_net.pos_embedding": (1, 17, dim),
        f"{block}.0.fn.norm.weight": (dim,),
        f"{block}.0.fn.fn.to_qkv.weight": (3 * inner, dim),
        f"{block}.0.fn.fn.to_out.0.bias": (dim,),
        f"{block}.1.fn.fn.net.0.weight": (512, dim),
        f"{block}.1.fn.fn.net.3.weight": (dim, 512),
    }
    assert {name: tuple(weights[name].shape) for name in expected} == expected
    assert torch.allclose(weights["text_features"].norm(dim=1), torch.ones(7), atol=1e-3)


def test_a_smiling_face_is_happiness_whatever_its_colour(shipped: tuple[DferClip, ModelCard]) -> None:
    model, described = shipped
    side = described.crop.size
    # Landmarks of the astronaut's face, read off the picture: eyes, nose tip, mouth corners.
    landmarks = np.array([[203.4, 103.6], [247.5, 104.4], [224.1, 127.7], [204.0, 143.1], [242.9, 143.7]], np.float32)
    target = np.array(described.crop.landmarks, np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, target, method=cv2.LMEDS)
    crop = cv2.warpAffine(skimage.data.astronaut(), matrix, (side, side), flags=cv2.INTER_AREA)
    tinted = (crop * np.array([1.0, 0.75, 0.6])).astype(np.uint8)
    for view in (crop, crop[:, ::-1].copy(), tinted):
        pixels = prepare_pixels(torch.from_numpy(view)[None], described.pixels)
        with torch.no_grad():
            logits = model(pixels[None].expand(1, 16, -1, -1, -1)).logits_BC / described.calibration_temperature
        probabilities = dict(zip(described.config.classes, logits.softmax(1)[0].tolist(), strict=True))
        assert probabilities["happiness"] > 0.8, probabilities
