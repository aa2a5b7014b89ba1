"""A tiny training learns, resumes to the same weights, and writes its checkpoint whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from faces_data import write_sets

from streamfer.errors import CheckpointError, OutputError
from streamfer_builtin.faces import training
from streamfer_builtin.faces.config import FacesConfig, OptimiserConfig, TrainConfig
from streamfer_builtin.faces.export import export
from streamfer_builtin.faces.network import FaceNetwork, Shape
from streamfer_builtin.faces.start import convolutions, take_weights
from streamfer_builtin.faces.training import CHECKPOINT, TrainingState, batch_of_side, learning_rate, train
from streamfer_builtin.faces.views import Views

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


def test_the_loss_falls(config: FacesConfig) -> None:
    batch = Views(config.data).batch(1, 0, 6, 96)
    trainer = TrainingState.fresh(config.train)
    totals = [float(trainer.advance(batch).total.detach()) for _ in range(config.train.steps)]
    assert np.mean(totals[-4:]) < 0.8 * np.mean(totals[:4])


def test_an_interrupted_run_ends_at_the_same_weights(config: FacesConfig, tmp_path: Path) -> None:
    whole = TrainingState.fresh(config.train)
    whole.restore(train(config, until=10))
    broken = config.model_copy(update={"work": tmp_path / "broken"})
    (tmp_path / "broken").mkdir()
    train(broken, until=4)
    resumed = TrainingState.fresh(config.train)
    resumed.restore(train(broken, until=10))
    assert resumed.step == whole.step == 10
    for ours, theirs in ((whole.network, resumed.network), (whole.average, resumed.average)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_a_crash_while_writing_keeps_the_former_checkpoint(
    config: FacesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config.work / CHECKPOINT
    trainer = TrainingState.fresh(config.train)
    trainer.save(path)
    before = path.read_bytes()

    def torn(_state: object, target: IO[bytes]) -> None:
        target.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", torn)
    trainer.step = 99
    with pytest.raises(OutputError, match=r"checkpoint\.pt: cannot be written \(disk full\)"):
        trainer.save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"half a file", b"PK\x03\x04" + b"\0" * 50])
def test_a_damaged_checkpoint_is_named(content: bytes, config: FacesConfig) -> None:
    path = config.work / CHECKPOINT
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        train(config)


def test_a_checkpoint_of_another_network_is_refused(config: FacesConfig) -> None:
    path = config.work / CHECKPOINT
    torch.save({"step": 1, "network": {}, "average": {}, "optimiser": {}}, path)
    with pytest.raises(CheckpointError, match="another network"):
        train(config)


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
    for name, said in (("other", "other shapes"), ("broken", "cannot be read"), ("absent", "cannot be read")):
        with pytest.raises(CheckpointError, match=said):
            take_weights(FaceNetwork(NARROW), tmp_path / f"{name}.onnx")


def test_larger_pictures_come_in_smaller_batches() -> None:
    settings = TrainConfig(batch=32)
    assert [batch_of_side(settings, side) for side in (192, 256, 320, 384)] == [57, 32, 20, 14]


def test_learning_rate_rises_then_falls() -> None:
    settings = TrainConfig(steps=100, optimiser=OptimiserConfig(learning_rate=1.0, warmup=10))
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 0.02
