"""The loop that every recipe trains with: steps, checkpoints, a moving average, and a stop that can be continued.

Everything random is a function of (seed, process, step), and what a batch holds is a function of (seed, epoch, index):
a run that was interrupted, in the middle of an epoch too, ends at the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from streamfer.errors import CheckpointError, ConfigError, UserError
from streamfer_train.recipes import parallel
from streamfer_train.recipes.checkpoint import LAST, Checkpoint, Progress
from streamfer_train.recipes.journal import Journal
from streamfer_train.recipes.loading import Batch, in_steps
from streamfer_train.recipes.processes import ProcessGroup
from streamfer_train.recipes.run_folder import alone_in, check_same
from streamfer_train.recipes.sections import LogConfig, RunSection, StepsConfig

log = logging.getLogger(__name__)


class DivergedError(UserError, ArithmeticError):
    """A loss or a gradient is not a finite number any more."""


class InterruptedRunError(UserError):
    """Somebody asked the run to stop; it saved and can go on."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class Job:
    """One training: what the loop has to know of a recipe's settings."""

    recipe: str
    name: str
    folder: Path
    config: dict[str, Any]  #: the whole configuration as plain values, to compare when the run goes on
    may_change: Sequence[str]
    seed: int
    epochs: int
    run: RunSection
    log: LogConfig
    accumulate: int = 1
    clip: float | None = None
    average: float = 0.0
    fp16: bool = False  #: scale losses, so that gradients in half precision do not vanish
    parallel: parallel.Parallel = "ddp"
    idle: bool = False  #: a step may leave trained weights without a gradient
    whole: bool = False  #: checkpoints hold frozen weights too
    #: what a checkpoint says beside the configuration; another value is another run
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Any, steps: StepsConfig, recipe: str, name: str, folder: Path, **more: Any) -> Job:
        """Return the training that a recipe's configuration and its section of steps describe."""
        more |= {"accumulate": steps.accumulate, "clip": steps.clip, "fp16": config.runtime.precision == "fp16"}
        more |= {"epochs": steps.epochs, "run": config.run, "log": config.log}
        return cls(recipe, name, folder, config.model_dump(mode="json"), **more)


class Task(Protocol):
    """What a recipe brings: a model, its batches, and what they cost."""

    steps: int  #: optimiser steps of an epoch

    @property
    def learner(self) -> nn.Module:
        """The model, frozen where it does not learn."""

    def optimiser(self) -> torch.optim.Optimizer:
        """Build the optimiser; the learner is where it will train."""

    def batches(self, epoch: int, done: int) -> Iterable[Batch]:
        """Return this process's micro-batches of an epoch without the first ``done``."""

    def set_rates(self, optimiser: torch.optim.Optimizer, progress: Progress) -> dict[str, float]:
        """Set learning rates for the next step and return what is written down of them."""

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return scalar losses by name, the sum as ``total``; ``model`` is the learner or stands for it."""

    def end_epoch(self, trainer: Trainer, means: dict[str, float]) -> tuple[dict[str, float], str]:
        """Measure the epoch that ended and append to the progress's history; returns a row of numbers, and words."""

    def stops_early(self, progress: Progress) -> bool:
        """Whether further epochs are not worth their time."""


class Unmeasured:
    """What a task does at the end of an epoch where nothing is measured and every epoch is trained."""

    def end_epoch(self, trainer: Trainer, means: dict[str, float]) -> tuple[dict[str, float], str]:
        trainer.progress.history.append(means)
        return means, ", ".join(f"{name} {value:.4f}" for name, value in means.items())

    def stops_early(self, progress: Progress) -> bool:
        del progress
        return False


def micro_batch(batch: int, accumulate: int, world: ProcessGroup) -> int:
    """Return what one process sees at once of a batch; a ConfigError where it cannot be shared out evenly."""
    shares = world.size * accumulate
    if batch % shares:
        raise ConfigError(
            f"batch {batch} is not a multiple of {world.size} process(es) x accumulate {accumulate}; choose another"
        )
    return batch // shares


def half_cosine(done: float, start: float = 1.0, end: float = 0.0) -> float:
    """Return the learning rate after the share ``done`` of the way from ``start`` to ``end``, along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class _StopSignal:
    """SIGINT and SIGTERM as a question that the loop asks: a step is finished and saved before the process ends."""

    def __init__(self) -> None:
        self.number = 0

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Take over both signals for a while; a second SIGINT ends the process at once, as usual."""
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number


class Trainer:
    """A task, its optimiser and its progress, in one of the processes that train it."""

    def __init__(self, job: Job, task: Task, world: ProcessGroup) -> None:
        self.job, self.task, self.world = job, task, world
        self.progress = Progress()
        self.learner = task.learner.to(world.device)
        self.model = parallel.spread(self.learner, world, job.parallel, idle=job.idle)
        self.optimiser = task.optimiser()
        self.trained = [weight for weight in self.learner.parameters() if weight.requires_grad]
        self.average = Average(self.learner, job.average) if job.average else None
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=job.fp16)
        self.journal = Journal(job.folder, job.log, silent=not world.leads)
        self._stop = _StopSignal()

    @property
    def last(self) -> Path:
        """The checkpoint that a continuation starts from."""
        return self.job.folder / LAST

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self, *, resume: bool = False) -> Progress:
        """Train to the last epoch, or until the task has enough; returns what was reached.

        Raises:
            DivergedError: a loss or gradient is not finite; the last checkpoint stands.
            InterruptedRunError: a signal asked to stop; the state is saved.
            OutputError: a checkpoint cannot be written; the former one stands.
            CheckpointError: the checkpoint is damaged or of another configuration.
            ConfigError: another process trains in this folder.
        """
        with contextlib.ExitStack() as held:
            self.world.share(lambda: held.enter_context(alone_in(self.job.folder)))
            if resume and self.last.exists():
                self._restore()
            progress = self.progress
            progress.epochs = self.job.epochs
            held.enter_context(self.journal.open(progress.step, progress.epoch))
            held.enter_context(self._stop.heard())
            while progress.epoch < self.job.epochs and not self.task.stops_early(progress):
                self._epoch()
                self._pause(due=False)
        return progress

    def _epoch(self) -> None:
        progress, job, steps, began = self.progress, self.job, self.task.steps, time.monotonic()
        self.model.train()
        done = progress.batches // job.accumulate
        self.journal.stage(f"{job.name}, epoch {progress.epoch + 1}/{job.epochs}", steps, done)
        batches = self.task.batches(progress.epoch, progress.batches)
        for micro in in_steps(batches, job.accumulate, steps - done):
            for name, value in self.step(micro).items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            self.journal.advance()
            self._pause(due=progress.step % job.run.checkpoint_every == 0)
        means = {name: value / steps for name, value in progress.sums.items()}
        progress.epoch, progress.batches, progress.sums = progress.epoch + 1, 0, {}
        row, words = self.task.end_epoch(self, means)
        self.journal.epoch(progress.epoch, progress.step, row)
        self._save()
        seconds = time.monotonic() - began
        self.journal.say(f"{job.name}, epoch {progress.epoch}/{job.epochs}: {words}, {seconds:.1f} s")

    def step(self, micro: Sequence[Batch]) -> dict[str, float]:
        """Take one optimiser step; returns the losses before it, averaged over processes, or raises DivergedError."""
        progress = self.progress
        # Dropout and drawn negatives must not depend on where a run was interrupted.
        torch.manual_seed((self.job.seed * 1_000_003 + progress.step) * 4096 + self.world.rank)
        rates = self.task.set_rates(self.optimiser, progress)
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for place, batch in enumerate(micro):
            moved = {name: tensor.to(self.world.device, non_blocking=True) for name, tensor in batch.items()}
            with parallel.no_sync(self.model, place < len(micro) - 1):
                parts = self.task.losses(self.model, moved)
                self.scaler.scale(parts["total"] / len(micro)).backward()
            for name, loss in parts.items():
                sums[name] = sums.get(name, torch.zeros((), device=loss.device)) + loss.detach().float() / len(micro)
        everyones = self.world.sums([float(loss) for loss in sums.values()])
        means = {name: value / self.world.size for name, value in zip(sums, everyones, strict=True)}
        if not math.isfinite(means["total"]):
            raise self._diverged("the loss", means["total"])
        self._descend()
        progress.step += 1
        progress.batches += len(micro)
        if self.average is not None:
            self.average.update(self.learner, progress.step)
        self.journal.step(progress.step, {**means, **rates})
        return means

    def _descend(self) -> None:
        """Check, clip and apply the gradient."""
        self.scaler.unscale_(self.optimiser)
        norm: Any = torch.nn.utils.get_total_norm([weight.grad for weight in self.trained if weight.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        # With fp16 an overflow is expected now and then: the scaler skips that step and lowers its scale.
        if not self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
            raise self._diverged("the norm of the gradient", float(norm))
        if self.job.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trained, self.job.clip, norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def _pause(self, *, due: bool) -> None:
        """Save where it is time to, and stop where somebody asked any of the processes to."""
        (asked,) = self.world.sums([float(self._stop.number)])
        if due or (asked and self.progress.batches):
            self._save()
        if asked:
            number = self._stop.number or int(signal.SIGTERM)
            raise InterruptedRunError(
                f"stopped by {signal.Signals(number).name} after step {self.progress.step} of {self.job.name}; saved "
                f"in {self.last}: continue with --resume"
            )

    def _diverged(self, what: str, value: float) -> DivergedError:
        stands = f"{self.last} holds the last good state" if self.last.exists() else "no checkpoint was written yet"
        return DivergedError(
            f"{self.job.name}, step {self.progress.step + 1} (epoch {self.progress.epoch + 1}): {what} is {value}; "
            f"{stands}; lower the learning rates, clip the gradient, or use runtime.precision: fp32"
        )

    # -- state ---------------------------------------------------------------------------------------------------

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Lend the averaged weights, where there are any, to the learner for a while."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place_of(self.learner)

    def checkpoint(self, *, weights_only: bool = False) -> Checkpoint:
        """Return the state of now; every process has to call it where the model is sharded."""
        optimiser = None if weights_only else parallel.optimiser_state(self.learner, self.optimiser)
        return Checkpoint(
            recipe=self.job.recipe,
            config=self.job.config,
            about=self.job.about,
            progress=self.progress,
            model=parallel.model_state(self.learner, whole=self.job.whole),
            optimiser=optimiser,
            average=None if self.average is None else self.average.tensors,
            scaler=None if weights_only else self.scaler.state_dict(),
        )

    def _save(self) -> None:
        state = self.checkpoint()
        self.world.share(lambda: state.save(self.last))

    def _restore(self) -> None:
        found = Checkpoint.load(self.last, self.job.recipe)
        check_same(self.last, found.config, self.job.config, self.job.may_change)
        about = json.loads(json.dumps(self.job.about))
        for name in about:
            if found.about.get(name) != about[name]:
                raise CheckpointError(f"{self.last}: is of {name} {found.about.get(name)}, not {about[name]}")
        parallel.restore(self.learner, self.optimiser, found, str(self.last), whole=self.job.whole)
        self.scaler.load_state_dict(found.scaler or {})
        if self.average is not None and found.average is not None:
            self.average.tensors = {name: tensor.to(self.world.device) for name, tensor in found.average.items()}
        self.progress = found.progress
        planned = self.progress.epochs or self.job.epochs
        if self.job.epochs < planned:
            raise CheckpointError(
                f"{self.last}: {planned} epochs are planned ({self.progress.epoch} done) and {self.job.epochs} are "
                "asked for; a run may only grow: raise the epochs, or choose another --out"
            )
        if self.job.epochs > planned:
            self.progress.extended.append(planned)
            self.journal.say(f"{self.job.name}: {planned} epochs become {self.job.epochs}; schedules follow suit")
        if self.world.leads:
            log.info(
                "train.resumed", extra={"job": self.job.name, "epoch": self.progress.epoch, "step": self.progress.step}
            )


class Average:
    """A moving average of everything that learns, running statistics of norms included."""

    def __init__(self, learner: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in _moving(learner).items()}

    @torch.no_grad()
    def update(self, learner: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` steps; the memory grows with them, else the random start would stay."""
        keep = min(self.decay, (1 + step) / (10 + step))
        now = _moving(learner)
        torch._foreach_lerp_(list(self.tensors.values()), [now[name] for name in self.tensors], 1 - keep)

    @contextlib.contextmanager
    def in_place_of(self, learner: nn.Module) -> Iterator[None]:
        """Lend the averaged weights to ``learner`` for a while."""
        own = {name: tensor.detach().clone() for name, tensor in _moving(learner).items()}
        learner.load_state_dict(self.tensors, strict=False)
        try:
            yield
        finally:
            learner.load_state_dict(own, strict=False)


def _moving(learner: nn.Module) -> dict[str, Tensor]:
    """Return what training changes, by name: trained weights, and buffers of floating point that are stored."""
    trained = {name: weight for name, weight in learner.named_parameters() if weight.requires_grad}
    stored = learner.state_dict()
    norms = {n: b for n, b in learner.named_buffers() if n in stored and b.is_floating_point() and "running_" in n}
    return {**trained, **norms}
