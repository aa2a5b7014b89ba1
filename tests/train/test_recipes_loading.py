"""Batches grouped into steps, and steps made of micro-batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamfer_train.recipes.checkpoint import Progress
from streamfer_train.recipes.loading import Batch, in_steps
from streamfer_train.recipes.processes import ALONE
from streamfer_train.recipes.sections import LogConfig, RunSection
from streamfer_train.recipes.trainer import Job, Trainer, Unmeasured


@pytest.mark.parametrize(
    ("size", "steps", "expected"),
    [
        (2, 2, [[0, 1], [2, 3]]),
        (2, 9, [[0, 1], [2, 3]]),
        (1, 3, [[0], [1], [2]]),
        (3, 1, [[0, 1, 2]]),
        (6, 1, []),
        (2, 0, []),
    ],
)
def test_steps_are_whole_and_nothing_is_read_beyond_them(size: int, steps: int, expected: list[list[int]]) -> None:
    source = iter(range(5))
    assert list(in_steps(source, size, steps)) == expected
    if len(expected) == steps:
        assert next(source) == size * steps


class _Toy(Unmeasured):
    """Least squares; what a step does depends on nothing but its batch."""

    steps = 1

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.learner = torch.nn.Linear(3, 1)

    def optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.learner.parameters(), lr=0.1)

    def batches(self, epoch: int, done: int) -> list[Batch]:
        raise NotImplementedError

    def set_rates(self, optimiser: torch.optim.Optimizer, progress: Progress) -> dict[str, float]:
        return {}

    def losses(self, model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return {"total": (model(batch["x"]) ** 2).mean()}


def test_a_step_in_micro_batches_is_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    rows = torch.arange(12.0).view(4, 3)
    log = LogConfig(every=99, tensorboard=False, progress=False)
    run = RunSection(out=tmp_path)
    found = []
    for parts in (1, 2, 4):
        task = _Toy()
        trainer = Trainer(Job("toy", "toy", tmp_path, {}, (), 0, 1, run, log, accumulate=parts), task, ALONE)
        means = trainer.step([{"x": part} for part in rows.chunk(parts)])
        found.append((means["total"], task.learner.weight.detach()))
    for loss, weight in found[1:]:
        assert loss == pytest.approx(found[0][0])
        torch.testing.assert_close(weight, found[0][1])
