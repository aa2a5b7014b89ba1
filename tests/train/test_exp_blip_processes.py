"""Two processes train Exp-BLIP as one does, replicated or sharded, and one goes on with what they began."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import without_chance
from free_ports import torchrun_variables
from tiny_faces import write_config

from streamfer_train.exp_blip.__main__ import main
from streamfer_train.recipes.checkpoint import Checkpoint


def load(path: Path) -> Checkpoint:
    return Checkpoint.load(path, "exp-blip")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _together(words: list[str], patch: pytest.MonkeyPatch) -> None:
    # What torchrun sets; this process leads, an interpreter of its own follows.
    shared = {**torchrun_variables(), "OMP_NUM_THREADS": "1"}
    other = subprocess.Popen(
        [sys.executable, without_chance.__file__, *words],
        env={**os.environ, **shared, "RANK": "1", "LOCAL_RANK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with patch.context() as here:
            for name, value in shared.items():
                here.setenv(name, value)
            assert main(words) == 0
        said = other.communicate(timeout=240)[0]
    finally:
        other.kill()
    assert other.returncode == 0, said


# That the trainer's steps are replicated is seen in test_dfer_training_runs.py, too.
@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_two_processes_train_as_one(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Chance differs between processes: no dropout, no drawn negatives, views as they are. Captions of one length,
    # because a process averages over its own tokens.
    for owner, name, replacement in without_chance.REPLACED:
        monkeypatch.setattr(owner, name, replacement)
    texts = ("the inner brow lip", "the brow lip inner", "the lip inner brow")
    entries = [{"image": f"faces/{number:02d}.png", "caption": texts[number % 3]} for number in range(9)]
    (tmp_path / "even.json").write_text(json.dumps(entries))
    fast = {"batch": 6, "epochs": 3, "lr": 2e-3, "warmup": 0}
    path = write_config(
        tmp_path,
        data={"au": [{"file": str(tmp_path / "even.json"), "images": str(tmp_path)}]},
        step1={**fast, "same_text": "own"},
        step2=fast,
        augmentation={"operations": 0, "flip": False, "scale": [1.0, 1.0]},
    )
    words = ["train", "--stage", "au", "-c", str(path), "--set", f"runtime.parallel={kind}", "--out"]
    _together([*words, str(tmp_path / "together")], monkeypatch)
    assert main([*words, str(tmp_path / "alone")]) == 0
    for step in ("step1", "step2"):
        one, two = (rows(tmp_path / name / "au" / step / "steps.csv") for name in ("alone", "together"))
        assert len(one) == len(two) == 3
        for ours, theirs in zip(one, two, strict=True):
            assert {name: float(value) for name, value in theirs.items()} == pytest.approx(
                {name: float(value) for name, value in ours.items()}, rel=2e-2
            )
        left, right = (load(tmp_path / name / "au" / step / "last.pt") for name in ("alone", "together"))
        assert {name: one.shape for name, one in left.model.items()} == {n: t.shape for n, t in right.model.items()}
    # Before anything was learned both compute the same; later Adam enlarges what rounding began.
    first = [rows(tmp_path / name / "au" / "step1" / "steps.csv")[0] for name in ("alone", "together")]
    assert [float(first[1][name]) for name in first[0]] == pytest.approx(
        [float(first[0][name]) for name in first[0]], rel=1e-5
    )
    assert json.loads((tmp_path / "together" / "au" / "run.json").read_text())["processes"] == 2
    # What two processes began, one goes on with: the state knows nothing of how it was spread.
    (tmp_path / "together" / "au" / "step1" / "weights.safetensors").unlink()
    assert main([*words, str(tmp_path / "together"), "--resume"]) == 0
