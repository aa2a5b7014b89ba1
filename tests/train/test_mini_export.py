"""The shipped mini model: what its file promises, and that a smile is happiness."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

import streamfer
from streamfer.errors import ConfigError
from streamfer.geometry import loose_crop
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.weights import read_weights
from streamfer_train.mini import export
from streamfer_train.mini.__main__ import main

SHIPPED = Path(streamfer.__file__).parent / "weights" / "mini.safetensors"


@pytest.fixture(scope="module")
def shipped() -> tuple[DferClip, ModelCard]:
    return read_weights(SHIPPED)


def test_a_folded_kernel_reads_luma_and_keeps_its_answer_on_grey() -> None:
    kernel = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    folded = export.fold_luma(kernel)
    grey = torch.rand(1, 1, 8, 8).expand(-1, 3, -1, -1)
    assert torch.allclose(torch.conv2d(grey, kernel), torch.conv2d(grey, folded), atol=1e-4)
    # Red light and green light of the same luma are the same picture.
    red, green = torch.zeros(2, 1, 3, 8, 8)
    red[:, 0], green[:, 1] = 0.5, 0.5 * 0.299 / 0.587
    assert torch.allclose(torch.conv2d(red, folded), torch.conv2d(green, folded), atol=1e-5)


def test_a_stage_out_of_order_says_which_comes_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"images\.pt: no checkpoint; run .*mini images"):
        export.read(tmp_path, actions=4)


def test_the_command_names_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["images", "--data", str(tmp_path / "nowhere")]) == 2
    assert "training data not found" in capsys.readouterr().err


def test_the_shipped_card(shipped: tuple[DferClip, ModelCard]) -> None:
    card = shipped[1]
    assert card.name == "mini"
    assert card.config.classes == ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
    assert card.pixels == PixelProfile(size=64, mean=None, std=None, interpolation="bilinear")
    assert card.crop == loose_crop(64)
    assert 0 < card.config.temperature < 1
    assert 0.1 < card.calibration_temperature < 10
    assert "research" in card.licence
    assert card.train["date"]
    assert set(card.train["data"]) >= {"fer2013/train.parquet", "fer2013/val.parquet", "faces/faces.parquet"}
    assert 0.5 < card.train["metrics"]["fer2013_val_clips"]["accuracy"] < 1


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
    # Landmarks of the astronaut's face, read off the picture: eyes, nose tip, mouth corners.
    landmarks = np.array([[203.4, 103.6], [247.5, 104.4], [224.1, 127.7], [204.0, 143.1], [242.9, 143.7]], np.float32)
    target = np.array(loose_crop(64).landmarks, np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, target, method=cv2.LMEDS)
    crop = cv2.warpAffine(skimage.data.astronaut(), matrix, (64, 64), flags=cv2.INTER_AREA)
    tinted = (crop * np.array([1.0, 0.75, 0.6])).astype(np.uint8)
    model, card = shipped
    for view in (crop, crop[:, ::-1].copy(), tinted):
        pixels = torch.from_numpy(view).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            logits = model(pixels.expand(1, 16, -1, -1, -1)) / card.calibration_temperature
        probabilities = dict(zip(card.config.classes, logits.softmax(1)[0].tolist(), strict=True))
        assert probabilities["happiness"] > 0.8, probabilities


@pytest.mark.parametrize("wrong", ["0", "-3", "many"])
def test_the_command_refuses_senseless_epochs(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["images", "--data", "nowhere", "--epochs", wrong])
    assert stopped.value.code == 2
    assert "--epochs" in capsys.readouterr().err
