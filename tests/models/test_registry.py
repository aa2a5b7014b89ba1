"""Models by name: what is listed, what loads, and what an unknown name says."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_weights

import streamfer.models
from streamfer.errors import CheckpointError, ConfigError, DeviceError, UnknownModelError, UserError
from streamfer.files import sha256_of
from streamfer.models import registry
from streamfer.models.expression import ExpressionModel
from streamfer.models.inference import load_model
from streamfer.models.registry import check_name, find_model, list_models


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with one tiny model called ``mini``; imported models go to an empty home."""
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr(registry, "built_in_folder", lambda: folder)
    monkeypatch.setenv("STREAMFER_HOME", str(tmp_path / "home"))
    tiny_weights(folder / "mini.safetensors", licence="Apache-2.0")
    return folder


@pytest.mark.usefixtures("built_in")
def test_mini_is_the_default() -> None:
    model = load_model(device="cpu", precision="fp32")
    assert isinstance(model, ExpressionModel)
    assert model.info.name == "mini"
    assert model.info.classes == ("joy", "gloom", "calm")
    assert (model.info.frames, model.info.feature_dim, model.info.device) == (4, 16, "cpu")


def test_built_in_and_imported_are_listed(built_in: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = tiny_weights(tmp_path / "home" / "models" / "mine.safetensors", resnet=True, licence="private")
    tiny_weights(tmp_path / "home" / "models" / "mini.safetensors", seed=9)
    (tmp_path / "home" / "models" / "broken.safetensors").write_bytes(b"no")
    found = {entry.name: entry for entry in list_models()}
    assert set(found) == {"mini", "mine"}
    assert (found["mini"].origin, found["mini"].licence) == ("built-in", "Apache-2.0")
    assert (found["mine"].origin, found["mine"].licence) == ("imported", "private")
    assert found["mine"].digest == sha256_of(mine)
    assert found["mine"].size_bytes == mine.stat().st_size
    assert [(entry.msg, vars(entry)["model"]) for entry in caplog.records] == [("model.unreadable", "broken")]
    assert find_model("mini") == built_in / "mini.safetensors"


@pytest.mark.usefixtures("built_in")
def test_the_licence_is_said_at_load(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamfer")
    load_model("mini", device="cpu")
    (event,) = [vars(entry) for entry in caplog.records if entry.msg == "model.loaded"]
    assert event["licence"] == "Apache-2.0"
    assert event["precision_reason"]


@pytest.mark.usefixtures("built_in")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minni", "did you mean 'mini'"),
        ("something-else", "models here: mini"),
        ("no/such/file.safetensors", "no such file; models by name: mini"),
        ("absent.pth", "no such file"),
        ("too-long-for-a-file" * 20, "models here: mini"),
    ],
)
def test_unknown_names_list_what_exists(name: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message) as caught:
        load_model(name)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("built_in")
def test_a_path_loads_and_a_foreign_checkpoint_points_to_import(tmp_path: Path) -> None:
    path = tiny_weights(tmp_path / "elsewhere.safetensors", resnet=True)
    assert load_model(str(path), device="cpu").info.digest == sha256_of(path)
    torch.save({"a": torch.ones(1)}, tmp_path / "official.pth")
    with pytest.raises(CheckpointError, match="streamfer models import"):
        load_model(str(tmp_path / "official.pth"))


@pytest.mark.usefixtures("built_in")
def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="precision 'int8'"):
        load_model(precision="int8")
    with pytest.raises(DeviceError, match="cuda:63"):
        load_model(device="cuda:63")


@pytest.mark.usefixtures("built_in")
@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "mini"])
def test_names_that_cannot_be_taken(name: str) -> None:
    with pytest.raises(ConfigError, match="model name"):
        check_name(name)


def test_the_room_exports_its_names() -> None:
    room: Any = streamfer.models
    for name in room.__all__:
        assert getattr(room, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        room.nonsense  # noqa: B018


def _imported(code: str, *modules: str) -> list[str]:
    """Which of the modules a fresh process has imported after some code."""
    code = f"{code}\nimport sys\nprint(sorted({set(modules)!r} & sys.modules.keys()))"
    # The interpreter of the kernels' own tests imports Triton to answer.
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return [name.strip("'") for name in ran.stdout.strip("[]\n").split(", ") if name]


def test_models_are_listed_without_torch() -> None:
    code = "from streamfer.models import list_models\nfrom streamfer.models.card import read_card\nlist_models()"
    assert _imported(code, "torch", "open_clip", "transformers", "triton", "scipy") == []


def test_the_built_in_model_needs_torch_alone() -> None:
    code = (
        "import numpy, streamfer.models, streamfer_kernels\nfor attention in ('auto', 'torch'):\n"
        "    model = streamfer.models.load_model('mini', attention=attention)\n"
        "    crops = numpy.zeros((1, model.info.crop.size, model.info.crop.size, 3), numpy.uint8)\n"
        "    model.classify(model.encode(crops).expand(1, model.info.frames, -1))\n"
        "streamfer_kernels.backend_report('cpu')"
    )
    heavy = ("open_clip", "timm", "torchvision", "transformers", "triton", "torch._dynamo", "torch._inductor", "sympy")
    assert _imported(code, "torch", "scipy", *heavy) == ["torch"]
