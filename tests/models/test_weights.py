"""Weights files: what is written is read back, and every kind of damage is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import INVERTED, RESNET, VIT, tiny_card, tiny_model

from streamfer.errors import CheckpointError, OutputError
from streamfer.files import sha256_of
from streamfer.geometry import CropProfile
from streamfer.models.card import ModelCard, PixelProfile, read_card
from streamfer.models.expression import Abstention
from streamfer.models.sizes import VisionConfig
from streamfer.models.weights import read_weights, write_weights


def _rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> None:
    """Change fields of the card, dotted by ``__``, or the tensors, of an existing file."""
    with safe_open(path, framework="pt") as stream:
        document = json.loads(stream.metadata()["streamfer"])
    for name, value in changes.items():
        *parents, last = name.split("__")
        target = document
        for parent in parents:
            target = target[parent]
        if value is None:
            del target[last]
        else:
            target[last] = value
    save_file(tensors or load_file(path), path, metadata={"streamfer": json.dumps(document)})


@pytest.mark.parametrize("vision", [VIT, RESNET, INVERTED], ids=["vit", "bottleneck", "inverted"])
@pytest.mark.parametrize("half", [False, True])
def test_round_trip(tmp_path: Path, vision: VisionConfig, half: bool) -> None:
    model = tiny_model(vision=vision)
    card = tiny_card(model, train={"recipe": "none", "metrics": {"uar": 0.5}}, calibration_temperature=1.7)
    write_weights(tmp_path / "m.safetensors", model, card, half=half)
    found, found_card = read_weights(tmp_path / "m.safetensors")
    assert found_card == card
    assert read_card(tmp_path / "m.safetensors") == card
    for name, tensor in model.state_dict().items():
        read = found.state_dict()[name]
        assert read.dtype == (torch.float32 if tensor.is_floating_point() else tensor.dtype)
        torch.testing.assert_close(read, tensor, atol=1e-3 if half else 0, rtol=1e-3 if half else 0)
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_action_units_travel_with_their_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = tiny_model(actions=("AU12", "AU06"))
    card = tiny_card(model, action_thresholds=(0.625, 0.25))
    write_weights(path, model, card)
    found, found_card = read_weights(path)
    assert found_card == card
    assert json.loads(card.to_json())["action_units"] == ["AU12", "AU06"]
    assert json.loads(card.to_json())["action_thresholds"] == {"AU12": 0.625, "AU06": 0.25}
    features = torch.randn(4, 16)
    torch.testing.assert_close(found.action_intensities(features), model.action_intensities(features))


def test_a_model_without_action_units_says_nothing_of_them(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = tiny_model()
    write_weights(path, model, tiny_card(model))
    assert "action" not in tiny_card(model).to_json()
    assert not [name for name in load_file(path) if "action" in name]
    assert read_card(path).action_thresholds == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_units": "AU12"}, "action_units is 'AU12'; expected a list"),
        ({"action_units": ["smile", "AU06"]}, "action_units has 'smile'"),
        ({"action_units": ["AU12", "AU06", "AU01"]}, "action_thresholds is .*; expected a number for each"),
        ({"action_units": None}, "action_thresholds is"),
        ({"action_thresholds": [0.5, 0.5]}, "action_thresholds is"),
        ({"action_thresholds": {"AU12": 0.5, "AU06": 1.5}}, "expected numbers between 0 and 1"),
        ({"action_thresholds": {"AU12": 0.5, "AU06": "high"}}, "high"),
        ({"action_units": ["AU12", "AU06", "AU01"], "action_thresholds": None}, r"'action_head\.weight' has shape"),
        ({"action_units": None, "action_thresholds": None}, r"'action_head\.bias' is not part of the model"),
    ],
)
def test_wrong_action_units_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "m.safetensors"
    model = tiny_model(actions=("AU12", "AU06"))
    write_weights(path, model, tiny_card(model, action_thresholds=(0.5, 0.5)))
    _rewrite(path, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_weights(path)


def test_a_threshold_belongs_to_a_unit() -> None:
    model = tiny_model(actions=("AU12", "AU06"))
    with pytest.raises(CheckpointError, match="1 for 2 action units"):
        tiny_card(model, action_thresholds=(0.5,))


def test_a_file_from_before_the_choice_of_block_is_clips_network(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = tiny_model(vision=RESNET)
    write_weights(path, model, tiny_card(model))
    _rewrite(path, vision__block=None)
    found, card = read_weights(path)
    assert card == tiny_card(model)
    assert found.config.vision == RESNET


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = tiny_model()
    for name in ("a.safetensors", "b.safetensors"):
        write_weights(tmp_path / name, model, tiny_card(model))
    assert sha256_of(tmp_path / "a.safetensors") == sha256_of(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2; this streamfer reads 1"),
        ({"architecture": "other"}, "architecture 'other'"),
        ({"classes": None}, "field 'classes' is missing"),
        ({"classes": ["a", "a", "b"]}, "different names"),
        ({"classes": 5}, "metadata"),
        ({"vision__width": None}, r"'vision\.width' is missing"),
        ({"vision__timm_model_name": "x"}, r"vision\.timm_model_name is not a field"),
        ({"vision__width": 10**9}, r"vision\.width is 1000000000"),
        ({"vision__layers": 10**6}, r"vision\.layers is 1000000"),
        ({"vision__block": "wide"}, r"vision\.block is 'wide'"),
        ({"vision__block": ["inverted"]}, r"vision\.block is \['inverted'\]"),
        ({"vision__layers": "many"}, r"vision\.layers is 'many'"),
        ({"temporal__heads": 0}, r"temporal\.heads is 0"),
        ({"temperature": 0}, "temperature is 0"),
        ({"calibration_temperature": -1}, "calibration_temperature is -1"),
        ({"pixels__size": 17}, r"pixels\.size is 17 but"),
        ({"pixels__mean": [0.5, 0.5, 0.5]}, "mean and std belong together"),
        ({"pixels__mean": [0.5], "pixels__std": [1]}, r"'pixels\.mean\.1' is missing"),
        ({"pixels__interpolation": "nearest-ish"}, "interpolation"),
        ({"crop__kind": "oval"}, r"crop\.kind is 'oval'; expected 'similarity' or 'box'"),
        ({"crop__size": 4}, "crop profile: size is 4"),
        ({"quick_gelu": "perhaps"}, "quick_gelu is 'perhaps'; expected a valid boolean"),
        ({"abstention": {"min_pose": 2}}, r"abstention\.min_pose is 2; expected less than or equal to 1"),
        ({"abstention": {"min_smile": 0.2}}, r"abstention\.min_smile is not a field"),
        ({"temporal__layers": 2}, r"layers\.1\..*is missing"),
        ({"embed_dim": 8}, r"shape .*; expected"),
    ],
)
def test_a_wrong_card_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "m.safetensors"
    model = tiny_model()
    write_weights(path, model, tiny_card(model))
    _rewrite(path, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = tiny_model()
    write_weights(path, model, tiny_card(model))
    good = load_file(path)
    _rewrite(path, {name: tensor for name, tensor in good.items() if name != "temporal_net.cls_token"})
    with pytest.raises(CheckpointError, match=r"'temporal_net\.cls_token' is missing \(1 missing"):
        read_weights(path)
    _rewrite(path, {**good, "extra": torch.ones(1)})
    with pytest.raises(CheckpointError, match="'extra' is not part of the model"):
        read_weights(path)
    _rewrite(path, {**good, "text_features": torch.ones(9, 9)})
    with pytest.raises(CheckpointError, match=r"'text_features' has shape \(9, 9\)"):
        read_weights(path)
    _rewrite(path, {**good, "text_features": good["text_features"] * float("nan")})
    with pytest.raises(CheckpointError, match="not finite"):
        read_weights(path)
    _rewrite(path, {**good, "text_features": good["text_features"].int()})
    with pytest.raises(CheckpointError, match=r"'text_features' is torch\.int32; expected torch\.float32"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"", b"a text file", b"\xff" * 64])
def test_files_that_are_not_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_weights(tmp_path / "m.safetensors")


def test_a_truncated_file(tmp_path: Path) -> None:
    model = tiny_model()
    write_weights(tmp_path / "m.safetensors", model, tiny_card(model))
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        read_weights(tmp_path / "m.safetensors")


@pytest.mark.parametrize("half", [False, True])
def test_a_flipped_bit_among_the_numbers_is_told(half: bool, tmp_path: Path) -> None:
    model, path = tiny_model(), tmp_path / "m.safetensors"
    write_weights(path, model, tiny_card(model), half=half)
    read_weights(path)
    whole = path.read_bytes()
    for place in (0.5, 0.7, 0.999):
        content = bytearray(whole)
        content[int(place * len(whole))] ^= 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"m\.safetensors: its numbers are not those that were written"):
            read_weights(path)


def test_someone_elses_safetensors_points_to_import(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="streamfer models import"):
        read_weights(tmp_path / "m.safetensors")


def test_a_card_of_another_model_is_refused_before_writing(tmp_path: Path) -> None:
    model = tiny_model()
    card = tiny_card(model)
    other = replace(card, config=replace(card.config, classes=("x", "y", "z")))
    with pytest.raises(CheckpointError, match="another model"):
        write_weights(tmp_path / "m.safetensors", model, other)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    model = tiny_model()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        write_weights(tmp_path / "file" / "m.safetensors", model, tiny_card(model))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    model = tiny_model()
    write_weights(path, model, tiny_card(model))
    before = sha256_of(path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamfer.models.weights.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        write_weights(path, tiny_model(seed=2), tiny_card(model))
    assert sha256_of(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_card_survives_json() -> None:
    model = tiny_model()
    card = replace(
        tiny_card(model),
        abstention=Abstention(min_side=24.0, min_probability=0.35),
        pixels=PixelProfile(model.config.vision.image_size, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bicubic"),
        crop=CropProfile(kind="box", size=32, margin=0.25),
    )
    assert ModelCard.from_json(card.to_json()) == card


def test_limits_that_are_not_set_are_not_written() -> None:
    assert "abstention" not in tiny_card(tiny_model()).to_json()
    card = tiny_card(tiny_model(), abstention=Abstention(min_pose=0.5))
    assert json.loads(card.to_json())["abstention"] == {"min_pose": 0.5}
