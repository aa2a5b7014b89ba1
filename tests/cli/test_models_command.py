"""``streamfer models``: what is there, what a file says of itself, and how one is added."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from command_line import streamfer
from lavis_checkpoint import Sizes as LavisSizes
from lavis_checkpoint import make_state as make_lavis_state
from lavis_checkpoint import write_checkpoint as write_lavis_checkpoint
from lavis_checkpoint import write_language_model
from official_checkpoint import Sizes, make_state, write_checkpoint

from streamfer.geometry import loose_crop
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.sizes import DferClipConfig, TemporalConfig, VisionConfig
from streamfer.models.vocabulary import SEVEN_CLASSES
from streamfer.models.weights import write_weights


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint in the authors' layout, tiny."""
    write_checkpoint(tmp_path / "official.pth", make_state(Sizes()))
    return tmp_path / "official.pth"


def test_an_official_checkpoint_becomes_a_model_by_name(checkpoint: Path, tmp_path: Path) -> None:
    done = streamfer("models", "import", checkpoint, "--name", "mine", "--licence", "ask me")
    assert done.code == 0
    assert done.out.split() == f"imported mine: {', '.join(SEVEN_CLASSES)}".split()
    assert "--model mine" in done.err

    shown = streamfer("models", "show", "mine")
    facts = json.loads(shown.out)
    assert shown.code == 0
    assert (facts["licence"], len(facts["sha256"])) == ("ask me", 64)
    assert Path(facts["file"]).is_relative_to(tmp_path / "home")
    assert all(name in shown.out for name in SEVEN_CLASSES)

    listed = streamfer("models", "list")
    assert listed.code == 0
    lines = listed.out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("  mine ")]
    assert "imported" in lines[place]
    assert facts["sha256"][:12] in lines[place]
    assert "licence: ask me" in lines[place + 1]


def test_every_name_of_the_list_can_be_shown() -> None:
    lines = streamfer("models", "list").out.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2:3].strip() and "others:" not in line]
    assert {"mini", "measured", "builtin", "centerface"} <= set(names)
    for name in names:
        shown = streamfer("models", "show", name)
        assert (shown.code, json.loads(shown.out)["name"]) == (0, name)


def test_action_units_and_their_thresholds_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "reader.safetensors"
    torch.manual_seed(0)
    config = DferClipConfig(
        classes=("joy", "calm"),
        embed_dim=8,
        vision=VisionConfig(layers=1, width=8, head_width=8, patch_size=8, image_size=16),
        temporal=TemporalConfig(heads=1, dim_head=8, mlp_dim=8, frames=4),
        action_units=("AU06", "AU12"),
    )
    card = ModelCard(
        "reader", config, PixelProfile(16), loose_crop(16), "CC0: random numbers", action_thresholds=(0.25, 0.5)
    )
    write_weights(path, DferClip(config), card)
    shown = streamfer("models", "show", path)
    assert shown.code == 0
    facts = json.loads(shown.out)
    assert facts["action_units"] == ["AU06", "AU12"]
    assert facts["action_thresholds"] == {"AU06": 0.25, "AU12": 0.5}


def test_an_unknown_position_is_refused(checkpoint: Path) -> None:
    done = streamfer("models", "import", checkpoint, "--name", "mine", "--position", "side")
    assert (done.code, done.complaints) == (
        2,
        [
            "Invalid value for '--position': 'side' is not one of 'end', 'middle', 'front'; "
            "see: streamfer models import --help"
        ],
    )


def test_detectors_are_listed_with_their_licence() -> None:
    listed = streamfer("models", "list").out
    assert "lbp" in listed
    assert "buffalo_l" in listed
    assert "non-commercial" in listed


@pytest.mark.parametrize(
    ("name", "words"),
    [("nothing", "model 'nothing' is unknown"), ("nothing.safetensors", "no such file"), ("a/b", "no such file")],
)
def test_an_unknown_model_is_one_line(name: str, words: str) -> None:
    done = streamfer("models", "show", name)
    assert (done.code, done.out) == (2, "")
    assert len(done.complaints) == 1
    assert words in done.complaints[0]


def test_an_unknown_detector_cannot_be_pulled() -> None:
    done = streamfer("models", "pull", "nothing")
    assert (done.code, done.out) == (2, "")
    assert "detector 'nothing'" in done.complaints[0]
    assert "buffalo_l" in done.complaints[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "a.pth"), (b"I am a text file", "a.pth"), (None, "no such checkpoint file")],
    ids=["empty", "text", "absent"],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "a.pth").write_bytes(content)
    done = streamfer("models", "import", tmp_path / "a.pth", "--name", "mine")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert words in done.complaints[0]
    assert not list((tmp_path / "home").rglob("*.*"))


class Bomb:
    """Pickles as a command that makes a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("archive", [True, False], ids=["torch.save", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path: Path, archive: bool) -> None:
    witness, path = tmp_path / "witness", tmp_path / "bomb.pth"
    content = {"state_dict": {"a": torch.ones(2)}, "recorder": Bomb(witness)}
    if archive:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content["recorder"]))
    done = streamfer("models", "import", path, "--name", "mine")
    assert (done.code, done.out) == (2, "")
    assert len(done.complaints) == 1
    assert "bomb.pth" in done.complaints[0]
    assert "system" in done.complaints[0]
    for suffix in (".pth", ".safetensors", ".weights"):
        shown = streamfer("models", "show", path.rename(path.with_suffix(suffix)))
        path = path.with_suffix(suffix)
        assert (shown.code, shown.out, len(shown.complaints)) == (2, "", 1)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "a b"])
def test_names_that_cannot_be_a_file_are_refused(checkpoint: Path, name: str) -> None:
    done = streamfer("models", "import", checkpoint, "--name", name)
    assert (done.code, done.out) == (2, "")
    assert "model name" in done.complaints[0]


def test_a_captioner_is_imported_listed_and_shown(tmp_path: Path) -> None:
    base = tmp_path / "made"
    sizes = LavisSizes(blocks=1, layers=2)
    write_language_model(base / "language", sizes)
    state = make_lavis_state(sizes)
    write_lavis_checkpoint(base / "official.pth", state)
    before = streamfer("models", "list").out
    assert "  words " not in before
    # Auto tells a captioner by its tensors; then the language model is needed, and said.
    done = streamfer("models", "import", base / "official.pth", "--name", "words")
    assert (done.code, done.out, len(done.complaints)) == (2, "", 1)
    assert "--language-model" in done.complaints[0]
    done = streamfer(
        "models", "import", base / "official.pth", "--name", "words", "--language-model", base / "language",
        "--licence", "ask me",
    )  # fmt: skip
    assert (done.code, done.out.split()) == (0, ["imported", "words:", "describes", "faces"])
    shown = streamfer("models", "show", "words")
    facts = json.loads(shown.out)
    assert (shown.code, facts["licence"], facts["architecture"]) == (0, "ask me", "blip-2")
    assert Path(facts["folder"]).is_relative_to(tmp_path / "home")
    assert json.loads(streamfer("models", "show", facts["folder"]).out) == facts
    lines = streamfer("models", "list").out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("  words ")]
    assert facts["digest"][:12] in lines[place]
    assert "licence: ask me" in lines[place + 1]
    # Without one tensor, and as a kind that it is not.
    write_lavis_checkpoint(base / "broken.pth", {name: one for name, one in state.items() if name != "ln_vision.bias"})
    for kind, words in (("auto", "'ln_vision.bias' is missing"), ("exp-vqa", "is missing"), ("clip", "is not one of")):
        done = streamfer(
            "models", "import", base / "broken.pth", "--name", "x", "--kind", kind,
            "--language-model", base / "language", "--question-tokenizer", base / "language",
        )  # fmt: skip
        assert (done.code, done.out, len(done.complaints)) == (2, "", 1)
        assert words in done.complaints[0]
