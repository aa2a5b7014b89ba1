"""Where a training starts from: files, archives, installed models, tags without a network, other picture sizes."""

from __future__ import annotations

import json
import socket
import urllib.request
from dataclasses import asdict
from pathlib import Path

import open_clip
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from tiny_clips import built, clips, recipe, settings
from tiny_models import tiny_weights

from streamfer.errors import CheckpointError, ConfigError, UnknownModelError
from streamfer.models.weights import read_weights
from streamfer_train.dfer_clip.backbones import Backbone, Sizes, at_models_size, read_backbone
from streamfer_train.dfer_clip.config import parse_config
from streamfer_train.dfer_clip.model import Learner, build_learner, drawn_at_random


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def clip_file(path: Path, learner: Learner) -> dict[str, torch.Tensor]:
    """Write the towers of a model under CLIP's own names."""
    towers: dict[str, torch.Tensor] = {}
    for name, tensor in learner.clip.state_dict().items():
        if name.startswith("image_encoder."):
            towers[f"visual.{name.removeprefix('image_encoder.')}"] = tensor.clone()
        elif name.startswith("text_encoder."):
            towers[name.removeprefix("text_encoder.")] = tensor.clone()
    towers["token_embedding.weight"] = torch.randn(49408, 16)
    save_file(towers, path)
    return towers


def test_towers_come_from_a_file_with_clips_names(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    towers = clip_file(path, built(folder))
    backbone = settings(folder)["backbone"] | {"weights": str(path)}
    with pytest.raises(ConfigError, match=r"set backbone\.quick_gelu: true"):
        read_backbone(recipe(folder, backbone=backbone))
    beside = tmp_path / "open_clip_config.json"
    for known, wanted in (({"quick_gelu": True}, True), ({"vision_cfg": {}}, False)):
        beside.write_text(json.dumps({"model_cfg": known}))
        assert read_backbone(recipe(folder, backbone=backbone)).sizes.quick_gelu is wanted
    beside.write_text('["no configuration"]')
    with pytest.raises(ConfigError, match=r"open_clip_config\.json: cannot be read"):
        read_backbone(recipe(folder, backbone=backbone))
    beside.unlink()
    config = recipe(folder, backbone=backbone | {"quick_gelu": False})
    learner = build_learner(config, read_backbone(config), seed=9)
    assert torch.equal(learner.clip.state_dict()["image_encoder.proj"], towers["visual.proj"])
    assert torch.equal(learner.clip.state_dict()["text_encoder.text_projection"], towers["text_projection"])
    assert learner.clip.prompt_learner is not None
    prefix = learner.clip.prompt_learner.token_prefix[0, 0]
    assert torch.equal(prefix, towers["token_embedding.weight"][49406])
    broken = {name: tensor for name, tensor in towers.items() if name != "visual.proj"}
    save_file(broken, path)
    with pytest.raises(CheckpointError, match=r"image_encoder\.proj"):
        build_learner(config, read_backbone(config), seed=9)


def test_openais_archive_is_read_with_openais_activation(folder: Path, tmp_path: Path) -> None:
    """An archive as ``torch.jit.save`` writes OpenAI's, under CLIP's names and in half precision."""
    towers = clip_file(tmp_path / "clip.safetensors", built(folder))
    root = torch.nn.Module()
    for name, tensor in towers.items():
        place, parts = root, name.split(".")
        for part in parts[:-1]:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        place.register_parameter(parts[-1], torch.nn.Parameter(tensor.half()))
    torch.jit.script(root).save(str(tmp_path / "ViT-B-32.pt"))
    backbone = settings(folder)["backbone"] | {"weights": str(tmp_path / "ViT-B-32.pt")}
    config = recipe(folder, backbone=backbone)
    found = read_backbone(config)
    assert found.sizes.quick_gelu
    learner = build_learner(config, found, seed=9)
    assert torch.equal(learner.clip.state_dict()["image_encoder.proj"], towers["visual.proj"].half().float())


def test_an_installed_model_lends_its_towers_and_class_features(folder: Path, tmp_path: Path) -> None:
    path = tiny_weights(tmp_path / "tiny.safetensors")
    data = {"classes": ["calm", "joy", "pain"], "size": 32}
    data = settings(folder)["data"] | data
    config = recipe(folder, data=data, backbone={"weights": str(path)}, heads={"kind": "cosine", "temperature": 0.05})
    learner = build_learner(config, read_backbone(config), seed=2)
    model, card = read_weights(path)
    assert torch.equal(learner.clip.state_dict()["image_encoder.proj"], model.state_dict()["image_encoder.proj"])
    assert learner.clip.config.temporal == card.config.temporal
    assert learner.clip.text_features is not None
    assert model.text_features is not None
    assert torch.equal(learner.clip.text_features[0], model.text_features[2])
    assert torch.equal(learner.clip.text_features[1], model.text_features[0])
    with pytest.raises(ConfigError, match=r"heads\.kind: cosine"):
        read_backbone(recipe(folder, data=data, backbone={"weights": str(path)}))


def test_pictures_take_the_size_of_an_installed_model(folder: Path, tmp_path: Path) -> None:
    path = tiny_weights(tmp_path / "tiny.safetensors")
    plain = settings(folder, backbone={"weights": str(path)}, heads={"kind": "cosine"})
    other = read_backbone(at_models_size(parse_config(plain, "test")))
    assert (other.sizes.pixels.size, other.sizes.crop.size, other.sizes.vision.image_size) == (16, 16, 16)
    assert build_learner(parse_config(plain, "test"), other, seed=1)(clips()).keys() == {"logits"}
    del plain["data"]["size"]
    config = at_models_size(parse_config(plain, "test"))
    assert config.data.size == read_backbone(config).sizes.pixels.size == 32


@pytest.mark.parametrize(
    ("backbone", "error", "message"),
    [
        ({"name": "ViT-B-32", "weights": "openay"}, ConfigError, "laion2b_s34b_b79k"),
        ({"name": "ViT-B-33", "weights": "openai"}, UnknownModelError, "ViT-B-16"),
        ({"name": "ViT-B-32", "weights": "absent.pt"}, ConfigError, "no such file"),
        ({"name": "custom", "weights": "openai"}, ConfigError, "custom towers"),
    ],
)
def test_weights_that_cannot_be_had_are_named(
    folder: Path, backbone: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_backbone(recipe(folder, backbone=backbone))


def test_without_a_network_the_message_says_which_file_to_fetch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(ConfigError) as caught:
        read_backbone(recipe(folder, backbone={"name": "ViT-B-32", "weights": "openai"}))
    assert "timm/vit_base_patch32_clip_224.openai" in str(caught.value)
    assert "give that file, or random" in str(caught.value)


def test_a_dead_network_is_asked_once_and_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(place: tuple[str, int], timeout: float) -> socket.socket:
        asked.append((place, timeout))
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_args, **_more: pytest.fail("tried again"))
    with pytest.raises(ConfigError, match="cannot be downloaded"):
        read_backbone(recipe(folder, backbone={"name": "ViT-B-32", "weights": "openai"}))
    assert len(asked) == 1
    assert asked[0][1] <= 10


@pytest.mark.parametrize(
    ("name", "width", "text_width", "embed", "patch"),
    [("ViT-B-32", 768, 512, 512, 32), ("ViT-B-16", 768, 512, 512, 16), ("ViT-L-14", 1024, 768, 768, 14)],
)
def test_published_sizes_come_from_open_clip(
    folder: Path, name: str, width: int, text_width: int, embed: int, patch: int
) -> None:
    data = settings(folder)["data"] | {"size": 224}
    sizes = read_backbone(recipe(folder, data=data, backbone={"name": name, "weights": "random"})).sizes
    assert (sizes.vision.width, sizes.text.width, sizes.embed_dim, sizes.vision.patch_size) == (
        width,
        text_width,
        embed,
        patch,
    )
    assert TypeAdapter(Sizes).validate_python(asdict(sizes)) == sizes


def test_positions_are_interpolated_for_larger_pictures(folder: Path) -> None:
    from streamfer_train.dfer_clip.backbones import _resized

    data = settings(folder)["data"] | {"size": 448}
    sizes = read_backbone(recipe(folder, data=data, backbone={"name": "ViT-B-32", "weights": "random"})).sizes
    name = "image_encoder.positional_embedding"
    ramp = torch.arange(7.0).repeat(7, 1).reshape(49, 1).expand(49, 768)
    found = _resized({name: torch.cat([torch.full((1, 768), 9.0), ramp])}, sizes)[name]
    assert found.shape == (197, 768)
    assert bool((found[0] == 9).all())
    across = found[1:15, 0]
    assert bool((across.diff() >= -1e-4).all())
    assert float(across[-1] - across[0]) > 5


def test_a_backbone_from_another_architecture_is_named(folder: Path) -> None:
    config = recipe(folder)
    drawn = read_backbone(config)
    foreign = {name: torch.zeros(1) for name in ("image_encoder.proj",)}
    with pytest.raises(CheckpointError, match="backbone other"):
        build_learner(config, Backbone(drawn.sizes, foreign, (), "other"), seed=1)


def test_what_a_checkpoint_of_other_classes_does_not_give_is_told(folder: Path) -> None:
    tensors = dict(built(folder).clip.state_dict()) | {"prompt_learner.ctx": torch.zeros(11, 8, 16)}
    for lora in ({}, {"rank": 2}):
        config = recipe(folder, lora=lora)
        backbone = Backbone(read_backbone(config).sizes, tensors, (), "of eleven classes")
        learner = build_learner(config, backbone, seed=1)
        assert torch.equal(learner.clip.state_dict()["temporal_net.cls_token"], tensors["temporal_net.cls_token"])
        assert drawn_at_random(learner, backbone) == ["prompt_learner"]
