"""A tiny training learns, resumes to the same weights, and writes its checkpoint whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

from streamfer.errors import CheckpointError, OutputError, SourceNotFoundError
from streamfer_builtin.faces import training
from streamfer_builtin.faces.config import DataConfig, FacesConfig, OptimiserConfig, PoolConfig, TrainConfig
from streamfer_builtin.faces.labels import Labels
from streamfer_builtin.faces.network import FaceNetwork, Shape
from streamfer_builtin.faces.pool import Pool, shard_path
from streamfer_builtin.faces.shards import Shard, coded_jpeg
from streamfer_builtin.faces.training import CHECKPOINT, Trainer, batch_of_side, learning_rate, train


@pytest.fixture(autouse=True)
def narrow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same architecture at a quarter of its width: the tests are about the loop."""
    monkeypatch.setattr(training, "FaceNetwork", lambda: FaceNetwork(Shape((8, 8, 16, 16, 16), 16)))


@pytest.fixture
def config(tmp_path: Path) -> FacesConfig:
    """Twelve pictures, each with one bright square as its face."""
    rng = np.random.default_rng(3)
    coded, labels = [], []
    for _ in range(12):
        picture = rng.integers(0, 60, (96, 96, 3)).astype(np.uint8)
        x, y = rng.integers(8, 56, size=2)
        picture[y : y + 32, x : x + 32] = 230
        box = np.array([x, y, x + 32, y + 32], np.float32)
        points = np.add([[8, 10], [24, 10], [16, 18], [10, 25], [22, 25]], [x, y]).astype(np.float32)
        coded.append(coded_jpeg(picture))
        labels.append(Labels.single(box, points))
    Shard.of(coded, labels).save(shard_path(tmp_path / "sources", "train", 0))
    return FacesConfig(
        data=DataConfig(root=tmp_path),
        work=tmp_path,
        pool=PoolConfig(shards=1),
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
    pool = Pool(config.work / "sources", "train", 1)
    trainer = Trainer.fresh(config.train)
    totals = [float(trainer.advance(pool.batch(1, step, 6, 96)).total.detach()) for step in range(config.train.steps)]
    assert np.mean(totals[-4:]) < 0.8 * np.mean(totals[:4])


def test_an_interrupted_run_ends_at_the_same_weights(config: FacesConfig, tmp_path: Path) -> None:
    whole = Trainer.fresh(config.train)
    whole.restore(train(config, until=10))
    broken = config.model_copy(update={"work": tmp_path / "broken"})
    (tmp_path / "broken" / "sources").mkdir(parents=True)
    shard_path(tmp_path / "sources", "train", 0).rename(shard_path(tmp_path / "broken" / "sources", "train", 0))
    train(broken, until=4)
    resumed = Trainer.fresh(config.train)
    resumed.restore(train(broken, until=10))
    assert resumed.step == whole.step == 10
    for ours, theirs in ((whole.network, resumed.network), (whole.average, resumed.average)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_a_crash_while_writing_keeps_the_former_checkpoint(
    config: FacesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config.work / CHECKPOINT
    trainer = Trainer.fresh(config.train)
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


def test_a_missing_shard_is_named(config: FacesConfig) -> None:
    with pytest.raises(SourceNotFoundError, match=r"train-pool-001\.npz"):
        Pool(config.work / "sources", "train", 2)


def test_batches_depend_on_seed_and_step_alone(config: FacesConfig) -> None:
    pool = Pool(config.work / "sources", "train", 1)
    first, again, other = pool.batch(1, 5, 4, 96), pool.batch(1, 5, 4, 96), pool.batch(1, 6, 4, 96)
    assert torch.equal(first.pictures, again.pictures)
    assert torch.equal(first.targets.boxes, again.targets.boxes)
    assert not torch.equal(first.pictures, other.pictures)


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
