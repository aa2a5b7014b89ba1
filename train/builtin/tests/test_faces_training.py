"""A tiny training learns, resumes to the same weights wherever it was killed, and refuses checkpoints not its own."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from faces_data import write_sets

from streamfer.errors import CheckpointError, ConfigError
from streamfer_builtin.faces import training
from streamfer_builtin.faces.config import FacesConfig, OptimiserConfig, TrainConfig
from streamfer_builtin.faces.export import export
from streamfer_builtin.faces.network import FaceNetwork, Shape
from streamfer_builtin.faces.start import convolutions, take_weights
from streamfer_builtin.faces.training import (
    FacesTask,
    _Steps,
    averaged_network,
    batch_of_side,
    learning_rate,
    train,
)  # fmt: skip
from streamfer_builtin.faces.views import Views
from streamfer_train.recipes.checkpoint import LAST, Checkpoint, Progress
from streamfer_train.recipes.processes import ProcessGroup

NARROW = Shape((8, 8, 16, 16, 16), 16)


@pytest.fixture(autouse=True)
def narrow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same architecture at a quarter of its width: the tests are about the loop."""
    monkeypatch.setattr(training, "FaceNetwork", lambda: FaceNetwork(NARROW))


@pytest.fixture
def config(tmp_path: Path) -> FacesConfig:
    write_sets(tmp_path / "data")
    return FacesConfig(
        data=tmp_path / "data",
        work=tmp_path,
        train=TrainConfig(
            steps=24,
            batch=1,
            sides=(96,),
            bfloat16=False,
            checkpoint_every=6,
            log_every=100,
            optimiser=OptimiserConfig(learning_rate=5e-3, warmup=2),
        ),
    )


def state(config: FacesConfig) -> Checkpoint:
    return Checkpoint.load(config.work / LAST, training.RECIPE)


def test_the_loss_falls(config: FacesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = config.train.model_copy(update={"sides": (256,)})
    batch = _Steps(Views(config.data), wide, 0, rank=0, share=6)[0]
    monkeypatch.setattr(FacesTask, "batches", lambda *_: [batch] * config.train.steps)
    every_step = {"train": config.train.model_copy(update={"log_every": 1})}
    train(config.model_copy(update=every_step))
    with (config.work / "steps.csv").open(encoding="utf-8", newline="") as stream:
        totals = [float(row["total"]) for row in csv.DictReader(stream)]
    assert len(totals) == config.train.steps
    assert np.mean(totals[-4:]) < 0.8 * np.mean(totals[:4])


def test_a_run_killed_after_any_step_ends_at_the_same_weights(
    config: FacesConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves is the last checkpoint, of step 6: it comes at steps 7 and 11, without a word of farewell."""
    config = config.model_copy(update={"train": config.train.model_copy(update={"steps": 14})})
    train(config)
    whole = state(config)
    broken = config.model_copy(update={"work": tmp_path / "broken"})
    for step in (7, 11):
        with monkeypatch.context() as patch:
            patch.setattr(FacesTask, "set_rates", dying_at(step))
            with pytest.raises(KilledError):
                train(broken)
        assert state(broken).progress.step == 6
    train(broken)
    resumed = state(broken)
    assert resumed.progress.step == whole.progress.step == config.train.steps
    assert whole.average is not None
    assert resumed.average is not None
    for ours, theirs in ((whole.model, resumed.model), (whole.average, resumed.average)):
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name
    refused = config.train.model_copy(update={"seed": 9})
    with pytest.raises(CheckpointError, match=r"train\.seed was 1 and is now 9"):
        train(broken.model_copy(update={"train": refused}))


class KilledError(BaseException):
    """Stands in for SIGKILL: nobody catches it."""


def dying_at(step: int) -> Callable[..., dict[str, float]]:
    original = FacesTask.set_rates

    def dying(self: FacesTask, optimiser: torch.optim.Optimizer, progress: Progress) -> dict[str, float]:
        if progress.step == step:
            raise KilledError
        return original(self, optimiser, progress)

    return dying


@pytest.mark.parametrize("content", [b"", b"half a file", b"PK\x03\x04" + b"\0" * 50])
def test_a_damaged_checkpoint_is_named(content: bytes, config: FacesConfig) -> None:
    (config.work / LAST).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt: not a readable checkpoint"):
        train(config)


def test_a_checkpoint_of_another_network_is_refused(config: FacesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config.model_copy(update={"train": config.train.model_copy(update={"steps": 1})})
    train(config)
    monkeypatch.setattr(training, "FaceNetwork", lambda: FaceNetwork(Shape((8, 8, 16, 16, 16), 8)))
    with pytest.raises(CheckpointError, match=r"has shape \(16, .*expected \(8, "):
        train(config)
    with pytest.raises(CheckpointError, match="another network"):
        averaged_network(config.work / LAST)


def test_a_training_begins_with_exported_weights(tmp_path: Path) -> None:
    torch.manual_seed(8)
    stored, fresh = FaceNetwork(NARROW).half().float(), FaceNetwork(NARROW)
    export(stored.eval(), tmp_path / "start.onnx", {"name": "test"})
    take_weights(fresh, tmp_path / "start.onnx")
    for ours, theirs in zip(convolutions(fresh, more=True), convolutions(stored, more=True), strict=True):
        assert torch.equal(ours.weight, theirs.weight)


def test_a_file_of_another_network_is_no_beginning(tmp_path: Path) -> None:
    export(FaceNetwork(Shape((8, 8, 8, 8, 8), 8)).eval(), tmp_path / "other.onnx", {"name": "test"})
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    damaged = FaceNetwork(NARROW).eval()
    with torch.no_grad():
        next(damaged.parameters())[0] = torch.nan
    export(damaged, tmp_path / "damaged.onnx", {"name": "test"})
    for name, said in (
        ("other", "other shapes"),
        ("damaged", "not finite"),
        ("broken", "cannot be read"),
        ("absent", "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=said):
            take_weights(FaceNetwork(NARROW), tmp_path / f"{name}.onnx")


def test_larger_pictures_come_in_smaller_batches() -> None:
    assert [batch_of_side(32, side) for side in (192, 256, 320, 384)] == [57, 32, 20, 14]


def test_processes_share_a_batch_and_see_other_pictures(config: FacesConfig) -> None:
    wide = config.model_copy(update={"train": config.train.model_copy(update={"batch": 4})})
    tasks = [FacesTask(wide, ProcessGroup(rank, 2, torch.device("cpu"))) for rank in (0, 1)]
    first, second = (next(iter(task.batches(0, 0)))["pictures"] for task in tasks)
    assert first.shape == second.shape == (batch_of_side(2, 96), 96, 96, 3)
    assert not torch.equal(first, second)
    with pytest.raises(ConfigError, match="not a multiple of 3"):
        FacesTask(wide, ProcessGroup(0, 3, torch.device("cpu")))


def test_learning_rate_rises_then_falls() -> None:
    settings = TrainConfig(steps=100, optimiser=OptimiserConfig(learning_rate=1.0, warmup=10))
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 0.02
