"""A stage of mini that learns a line in no time, in this process or, run as a script, in one of torchrun's.

Without BatchNorm and dropout two processes that share each batch compute what one does, up to rounding.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from streamfer_builtin.mini import fitting
from streamfer_builtin.mini.recipe import Schedule
from streamfer_train.recipes.processes import ALONE, ProcessGroup, joined

SCHEDULE = Schedule(epochs=3, batch=8, lr=0.3, clip=1.0)


@dataclass(frozen=True)
class Points:
    """Inputs (B, 3) and targets (B, 1)."""

    inputs: Tensor
    targets: Tensor


class Line:
    """Six batches of noisy points of a plane an epoch; `rows` keeps how many points each loss was given."""

    name = "toy"
    steps = 6

    def __init__(self, until: int) -> None:
        self.until = until
        self.rows: list[int] = []

    def batch(self, epoch: int, step: int) -> Points:
        """Return a batch; epoch `until` is where the process is stopped."""
        if epoch == self.until:
            raise SystemExit(0)
        rng = torch.Generator().manual_seed(1000 + 17 * epoch + step)
        inputs = torch.randn(SCHEDULE.batch, 3, generator=rng)
        noise = torch.randn(SCHEDULE.batch, 1, generator=rng)
        return Points(inputs, inputs @ torch.tensor([[1.0], [-2.0], [3.0]]) + noise)

    def loss(self, model: nn.Linear, batch: Points) -> Tensor:
        """Return the mean squared error."""
        self.rows.append(len(batch.inputs))
        loss: Tensor = (model(batch.inputs) - batch.targets).square().mean()
        return loss

    def watch(self, average: nn.Linear, epoch: int) -> dict[str, float]:
        """Return the first weight."""
        return {"weight": float(average.weight[0, 0])}


def train(path: Path, until: int, world: ProcessGroup = ALONE) -> Line:
    """Train, or go on from `path`, up to epoch `until`."""
    torch.manual_seed(1)
    task = Line(until)
    try:
        fitting.fit(nn.Linear(3, 1), task, SCHEDULE, path, None, fitting.Running(world=world))
    except SystemExit:
        assert until < SCHEDULE.epochs
    return task


if __name__ == "__main__":
    with joined("cpu") as this:
        # Each process has its own file: only the first one's may appear.
        seen = train(Path(sys.argv[1]) / f"{this.rank}.pt", int(sys.argv[2]), this).rows
        print("rows", *seen)
