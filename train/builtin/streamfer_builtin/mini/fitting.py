"""The loop that all stages share: epochs of batches, a moving average, checkpoints, resuming to the same result.

Processes that torchrun started share every batch: the picture a process computes is its own, the step is everyone's.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import structlog
import torch
from torch import Tensor, distributed, nn

from streamfer.errors import UserError
from streamfer_builtin.mini import checkpoint
from streamfer_builtin.mini.recipe import Schedule
from streamfer_train.recipes.processes import ALONE, ProcessGroup

log = structlog.get_logger(__name__)

Net = TypeVar("Net", bound=nn.Module)
Net_contra = TypeVar("Net_contra", bound=nn.Module, contravariant=True)
Batch = TypeVar("Batch")
_LOG_EVERY = 50


class Diverged(UserError):
    """A loss is no longer a number; the last good checkpoint was kept."""


class Task(Protocol[Net_contra, Batch]):
    """What makes a stage: its name, the steps of an epoch, and how a batch becomes a loss."""

    name: str
    steps: int

    def batch(self, epoch: int, step: int) -> Batch:
        """Return a batch of tensors, decided by the seed, the epoch and the step alone."""

    def loss(self, model: Net_contra, batch: Batch) -> Tensor:
        """Return the scalar loss."""

    def watch(self, average: Net_contra, epoch: int) -> dict[str, float]:
        """Return numbers for the log, measured on the averaged model after an epoch."""


@dataclass(frozen=True, slots=True)
class Running:
    """Where a stage runs: the device of its model, and who shares its batches."""

    device: str = "cpu"
    world: ProcessGroup = ALONE


class Average(Generic[Net]):
    """Exponential moving average of parameters and BatchNorm statistics."""

    def __init__(self, model: Net, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`; young averages move faster."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        ours, theirs = self.model.state_dict(), model.state_dict()
        moving = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in moving], [theirs[name] for name in moving], 1 - decay)
        for name in ours.keys() - set(moving):
            ours[name].copy_(theirs[name])


class Recorded:
    """A step on a GPU, recorded once as a graph and replayed: thousands of small launches become one.

    The first batch is read three times before, at whatever rate is set.
    """

    def __init__(self, step: Callable[[Any], Tensor], batch: Any) -> None:
        torch.backends.cudnn.benchmark = True
        parts = {field.name: getattr(batch, field.name).clone() for field in fields(batch)}
        self.batch = replace(batch, **parts)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                step(self.batch)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = step(self.batch)

    def __call__(self, batch: Any) -> Tensor:
        """Learn a batch of the same size; returns the loss, which the next call overwrites."""
        for field in fields(batch):
            getattr(self.batch, field.name).copy_(getattr(batch, field.name))
        self.graph.replay()
        return self.loss


def fit(
    model: Net,
    task: Task[Net, Any],
    schedule: Schedule,
    path: Path,
    extra: dict[str, Any] | None = None,
    running: Running | None = None,
) -> Net:
    """Train `model`, or resume from `path`, and return the averaged model.

    A run may go on with another number of processes: each takes its share of the same batches. The first one watches
    and writes. One checkpoint an epoch: `epoch` (done), `model`, `average`, `average_steps`, `optimizer`, `recipe`,
    and what `extra` holds.

    Raises:
        CheckpointError: the checkpoint was made with another recipe.
        Diverged: a loss is not finite; the checkpoint of the last whole epoch stays.
        OutputError: the checkpoint cannot be written; the one before stays.
    """
    running = running or Running()
    world = running.world
    model.to(running.device)
    average = Average(model, schedule.ema)
    optimizer = torch.optim.AdamW(_groups(model, schedule.weight_decay), lr=schedule.lr, fused=True)
    first = _resume(path, model, average, optimizer, schedule) if path.is_file() else 0
    for group in optimizer.param_groups:
        # A recorded step reads its rate from here; while it is recorded, nothing is learned.
        group.update(lr=torch.zeros((), device=running.device), capturable=running.device != "cpu")

    def stepped(batch: Any) -> Tensor:
        loss = task.loss(model, batch)
        loss.backward()
        _agree(model, world)
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    model.train()
    recorded = running.device != "cpu" and world.size == 1 and first < schedule.epochs
    step = Recorded(stepped, _mine(task.batch(first, 0), running)) if recorded else stepped
    for epoch in range(first, schedule.epochs):
        # Dropout draws from here: a resumed run draws what the first would have.
        torch.manual_seed(schedule.seed * 1000 + epoch)
        began = time.monotonic()
        model.train()
        loss = _epoch(model, task, schedule, epoch, average, optimizer, step, running)
        if not world.leads:
            continue
        seen = task.watch(average.model, epoch)
        seconds = round(time.monotonic() - began, 1)
        log.info(f"mini.{task.name}.epoch", epoch=epoch, loss=round(loss, 4), seconds=seconds, **seen)
        checkpoint.save(
            path,
            {
                "epoch": epoch + 1,
                "model": model.state_dict(),
                "average": average.model.state_dict(),
                "average_steps": average.steps,
                "optimizer": optimizer.state_dict(),
                "recipe": schedule.model_dump(),
                **(extra or {}),
            },
        )
    return average.model


def rate(progress: float, warm_up: float) -> float:
    """Linear warm-up, then half a cosine to zero; `progress` in [0, 1)."""
    if progress < warm_up:
        return progress / warm_up + 1e-3
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def _epoch(
    model: Net,
    task: Task[Net, Any],
    schedule: Schedule,
    epoch: int,
    average: Average[Net],
    optimizer: torch.optim.Optimizer,
    stepped: Callable[[Any], Tensor],
    running: Running,
) -> float:
    total, world = 0.0, running.world
    for step in range(task.steps):
        done = (epoch * task.steps + step) / (schedule.epochs * task.steps)
        for group in optimizer.param_groups:
            group["lr"].fill_(schedule.lr * rate(done, schedule.warm_up))
        loss = stepped(_mine(task.batch(epoch, step), running))
        average.update(model)
        value = world.sums([loss.item()])[0] / world.size
        if not math.isfinite(value):
            raise Diverged(
                f"stage {task.name}: the loss is {value} in step {step} of epoch {epoch}; the checkpoint of the last "
                f"whole epoch is kept: lower {task.name}.lr and run again"
            )
        total += value
        if step % _LOG_EVERY == 0 and world.leads:
            log.info(f"mini.{task.name}.step", epoch=epoch, step=step, loss=round(value, 4))
    return total / task.steps


def _mine(batch: Any, running: Running) -> Any:
    """Return every size-th row of a batch, a dataclass of tensors, from this process's rank on, on its device."""
    rows = slice(running.world.rank, None, running.world.size)
    parts = {field.name: getattr(batch, field.name)[rows] for field in fields(batch)}
    return replace(batch, **{name: part.to(running.device, non_blocking=True) for name, part in parts.items()})


def _agree(model: nn.Module, world: ProcessGroup) -> None:
    """Replace every gradient by its mean over the processes."""
    if world.size == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = torch.split(flat / world.size, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _resume(path: Path, model: Net, average: Average[Net], optimizer: torch.optim.Optimizer, schedule: Schedule) -> int:
    state = checkpoint.load(path, "")
    checkpoint.check_recipe(state["recipe"], schedule.model_dump(), path)
    with checkpoint.restoring(path):
        model.load_state_dict(state["model"])
        average.model.load_state_dict(state["average"])
        average.steps = int(state["average_steps"])
        optimizer.load_state_dict(state["optimizer"])
        done = int(state["epoch"])
    log.info("mini.resumed", path=path.name, epoch=done)
    return done
