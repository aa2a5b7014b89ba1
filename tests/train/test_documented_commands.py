"""Every command of docs/training.md and of the training half of docs/captions.md, run in order at toy size.

What the documents leave to the reader (a folder, a file, an endpoint) is filled in, and settings of toy size are put
behind; the words themselves are run as they stand.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from command_line import streamfer
from official_checkpoint import Sizes, make_state, write_checkpoint
from test_captions_rewrite import GOOD, Server, chat, local_model  # noqa: F401
from tiny_faces import settings as exp_settings

REPOSITORY = Path(__file__).resolve().parents[2]
DFEW = "configs/train/dfer_clip/dfew.yaml"
TOY = {
    "data": {"folds": [1, 3], "frames": 2, "size": 16, "workers": 0, "held_out": {"fraction": 0.3}},
    "backbone": {"name": "custom", "weights": "random", "custom": {
        "embed_dim": 16, "layers": 1, "width": 16, "head_width": 8, "patch": 8, "text_layers": 1, "text_width": 16,
        "text_heads": 2}},
    "temporal": {"heads": 2, "dim_head": 8, "mlp_dim": 16},
    "optimiser": {"batch": 7, "epochs": 1, "milestones": []},
    "run": {"out": "OUT", "device": "cpu"},
    "log": {"tensorboard": False, "progress": False},
}  # fmt: skip


def commands(document: str, first: str) -> list[list[str]]:
    """Words of each command of a document from a heading on; an explanation set off by three blanks goes."""
    text = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    text = text[text.index(first) :]
    found = []
    for block in re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(re.split(r"\s{3,}", re.sub(r"(--stage \w+)\s+", r"\1 ", line))[0])
            if words and words[0] in ("streamfer", "python", "torchrun"):
                found.append(words)
    return found


def sets(changes: dict[str, Any]) -> list[str]:
    """Return ``--set`` for every setting."""
    return [
        word
        for section, values in changes.items()
        for name, value in values.items()
        for word in ("--set", f"{section}.{name}={yaml.safe_dump(value, default_flow_style=True, width=9999).strip()}")
    ]


def run(words: list[str]) -> None:
    """Run a command in this process."""
    if words[0] == "python":
        assert import_module(f"{words[2]}.__main__").main(words[3:]) == 0, words
    elif words[0] == "torchrun":  # one process of it; several are in test_dfer_training_runs and test_exp_blip_stages
        module = words[words.index("-m") + 1]
        assert import_module(f"{module}.__main__").main(words[words.index("-m") + 2 :]) == 0, words
    else:
        done = streamfer(*words[1:])
        assert done.code == 0, (words, done.err)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repository's configurations, in which the commands run."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_dfew(desk: Path, film: Path) -> None:
    """Write what dfew.yaml names, in the authors' form: frame folders, lists of two folds, and a checkpoint of each."""
    rng = np.random.default_rng(0)
    (desk / "annotation").mkdir()
    for clip in range(28):
        folder = desk / "data" / "DFEW" / "DFEW_Frame_Face" / f"{clip:05d}"
        folder.mkdir(parents=True)
        for frame in range(2):
            cv2.imwrite(str(folder / f"{frame}.jpg"), rng.integers(0, 255, (20, 20, 3), dtype=np.uint8))
    for fold, tested in ((1, range(7)), (3, range(7, 14))):
        for part in ("train", "test"):
            lines = [f"/theirs/{n:05d} 2 {n % 7}" for n in range(28) if (n in tested) == (part == "test")]
            (desk / "annotation" / f"DFEW_set_{fold}_{part}.txt").write_text("\n".join(lines) + "\n")
        write_checkpoint(desk / f"DFEW-set{fold}-model.pth", make_state(Sizes()))
    shutil.copy(film, desk / "VIDEO.mp4")
    (desk / "my_videos.csv").write_text("video,label,start,end\nVIDEO.mp4,happy,0,1\nVIDEO.mp4,neutral,1,2\n")


@pytest.mark.timeout(900)
def test_commands_of_the_training_page(desk: Path, face_film: Path) -> None:
    write_dfew(desk, face_film)
    asked = commands("training.md", "# Training")
    assert len(asked) == 12
    for words in asked:
        filled = [{"...": DFEW, "FILE": "DFEW-set1-model.pth", "VIDEO": "VIDEO.mp4"}.get(word, word) for word in words]
        if "EXPORTED.safetensors" in filled:
            (exported,) = (desk / "OUT" / "seed1" / "fold1").glob("*.safetensors")
            filled = [str(exported) if word == "EXPORTED.safetensors" else word for word in filled]
        if "train" in filled:
            alone = "--fold" in filled or filled[0] == "torchrun"
            filled += [*sets(TOY), *(["--out", f"alone-{filled[0]}"] if alone else [])]
        elif "evaluate" in filled:
            filled += [*(sets(TOY) if "-c" in filled else []), "--device", "cpu", "--workers", "0", "--subset"]
        run(filled)
    assert (desk / "OUT" / "summary.md").exists()


@pytest.fixture
def server() -> Any:
    running = Server()
    running.answers = [chat(GOOD)]
    yield running
    running.close()


def exp_sets(desk: Path, kind: str) -> list[str]:
    """Return settings of toy size over a configuration."""
    folder = desk / kind
    folder.mkdir(exist_ok=True)
    plain = exp_settings(folder, kind)
    fast = {"epochs": 1, "batch": 3, "warmup": 0}
    steps = {"step1": fast, "step2": fast} if kind == "exp-blip" else {"training": fast}
    short = {"max_new_tokens": 8, "num_beams": 1}
    limits = {"step1": {"max_text_tokens": 24}, "step2": {"max_text_tokens": 40, **short},
              "training": {"max_question_tokens": 60, "max_answer_tokens": 40, **short}}  # fmt: skip
    changes = {step: {**values, **limits[step]} for step, values in steps.items()}
    model = {**plain["model"], "start": None, "vision": None}
    more = {"data": plain["data"], "model": model, "runtime": {"precision": "fp32", "checkpointing": False},
            "run": {"device": "cpu"}, "log": plain["log"]}  # fmt: skip
    return sets({**more, **changes})


@pytest.mark.timeout(900)
def test_commands_of_the_captions_page(desk: Path, server: Server, local_model: Path) -> None:  # noqa: F811
    units = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
    for person in range(1, 5):
        labels = desk / "DISFA" / "ActionUnit_Labels" / f"SN00{person}"
        labels.mkdir(parents=True)
        for unit in units:
            (labels / f"SN00{person}_au{unit}.txt").write_text("1,0\n2,3\n" if unit in (6, 12) else "1,0\n2,0\n")
        films = desk / "DISFA" / "Videos_LeftCamera"
        films.mkdir(exist_ok=True)
        film = str(films / f"LeftVideoSN00{person}_comp.avi")
        writer = cv2.VideoWriter(film, cv2.VideoWriter.fourcc(*"MJPG"), 20, (32, 32))
        for shade in (40, 200):
            writer.write(np.full((32, 32, 3), shade, np.uint8))
        writer.release()
    (desk / "faces.json").write_text('[{"image": "a.jpg", "action_units": [6, 12], "emotions": ["joy"]}]')
    asked = commands("captions.md", "## Captions from labels")
    assert len(asked) == 13
    for words in asked:
        filled = [{"https://host/v1": server.url, "FOLDER": str(local_model)}.get(word, word) for word in words]
        kind = next((word for word in filled if word in ("exp-blip", "exp-vqa")), None)
        if kind is not None:
            filled = ["configs/train/exp_blip/paper.yaml" if word == "..." else word for word in filled]
            toy = exp_sets(desk, kind)
            filled += toy if "train" in filled else ["--device", "cpu"]
            (desk / "test.json").write_text((desk / kind / "labels.json").read_text())
            filled = [str(desk / kind) if word == "faces" else word for word in filled]
        run(filled)
    assert json.loads((desk / "questions.json").read_text())
