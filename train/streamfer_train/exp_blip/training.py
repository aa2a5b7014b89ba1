"""The loop of one step: batches, optimiser, checkpoints, and a stop that can be continued.

Everything random is a function of (seed, process, step), and views are a function of (seed, epoch, index): a step
that was interrupted ends at the same weights as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import nn

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.journal import Journal
from streamfer_train.dfer_clip.training import DivergedError, InterruptedRunError, StopSignal
from streamfer_train.exp_blip import parallel as processes
from streamfer_train.exp_blip.config import OptimiserConfig, RuntimeConfig
from streamfer_train.exp_blip.data import Batch, PairDataset, PairSampler, build_loader
from streamfer_train.exp_blip.schedule import build_optimiser, learning_rate
from streamfer_train.exp_blip.state import LAST, Progress, State, load, save
from streamfer_train.recipes.loading import in_steps
from streamfer_train.recipes.sections import LogConfig, RunSection
from streamfer_train.recipes.settings import check_same
from streamfer_train.recipes.world import ProcessGroup

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One step of a recipe.

    Attributes:
        name: for logs, as ``au.step1``.
        folder: of its files.
        optimiser: schedule and batch.
        runtime: precision and sharding.
        run: where and how often.
        log: what is written down.
        seed: of everything random.
        config: the whole configuration as plain values, to compare when the step goes on.
        may_change: settings of it that may differ then.
        layers: blocks of the image encoder.
    """

    name: str
    folder: Path
    optimiser: OptimiserConfig
    runtime: RuntimeConfig
    run: RunSection
    log: LogConfig
    seed: int
    config: Mapping[str, Any]
    may_change: Sequence[str]
    layers: int


class Trainer:
    """A learner, its optimiser and its progress, in one of the processes that train it."""

    def __init__(
        self,
        job: Job,
        learner: nn.Module,
        dataset: PairDataset,
        collate: Callable[..., Batch],
        workers: int,
        world: ProcessGroup,
    ) -> None:
        """Take over a learner whose frozen weights are frozen already.

        Raises:
            ConfigError: the batch cannot be shared out, or there are fewer pairs than one batch.
        """
        asked = job.optimiser
        shares = world.size * asked.accumulate
        if asked.batch % shares:
            raise ConfigError(
                f"batch {asked.batch} is not a multiple of {world.size} process(es) x accumulate {asked.accumulate}; "
                "choose another"
            )
        self.job, self.world, self.progress, self.stop = job, world, Progress(), StopSignal()
        micro = asked.batch // shares
        self.sampler = PairSampler(len(dataset), micro, job.seed, world.rank, world.size)
        self.steps_of_epoch = self.sampler.batches // asked.accumulate
        if not self.steps_of_epoch:
            raise ConfigError(f"{job.name}: {len(dataset)} pairs are less than one batch of {asked.batch}; lower it")
        self.loader = build_loader(
            dataset,
            self.sampler,
            collate,
            batch=micro,
            workers=workers,
            world=world.size,
            pinned=world.device.type == "cuda",
        )
        self.learner = learner.to(world.device)
        self.parallel = processes.spread(self.learner, world, job.runtime.parallel)
        self.optimiser = build_optimiser(self.learner, asked, job.layers)
        self.journal = Journal(job.folder, job.log, silent=not world.leads)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole job."""
        return self.steps_of_epoch * self.job.optimiser.epochs

    def run(self, *, resume: bool = False) -> Progress:
        """Train to the last epoch.

        Raises:
            DivergedError: a loss is not finite; the last checkpoint stands.
            InterruptedRunError: a signal asked to stop; the state is saved.
            OutputError: a checkpoint cannot be written; the former one stands.
            CheckpointError: the checkpoint is damaged or of another configuration.
        """
        path = self.job.folder / LAST
        if resume and path.exists():
            self._restore(path)
        progress = self.progress
        with self.journal.open(progress.step, progress.epoch), self.stop.heard():
            while progress.epoch < self.job.optimiser.epochs:
                self._epoch()
        return progress

    def _epoch(self) -> None:
        progress, asked, began = self.progress, self.job.optimiser, time.monotonic()
        self.parallel.train()
        self.sampler.set_epoch(progress.epoch, progress.batches)
        self.journal.stage(
            f"{self.job.name}, epoch {progress.epoch + 1}/{asked.epochs}",
            self.steps_of_epoch,
            progress.batches // asked.accumulate,
        )
        left = self.steps_of_epoch - progress.batches // asked.accumulate
        for micro in in_steps(self.loader, asked.accumulate, left):
            for name, value in self._step(micro).items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            self.journal.advance()
            self._pause()
        means = {name: value / self.steps_of_epoch for name, value in progress.sums.items()}
        progress.epoch, progress.batches, progress.sums = progress.epoch + 1, 0, {}
        progress.history.append(means)
        self.journal.epoch(progress.epoch, progress.step, means)
        self.save()
        if self.world.leads:
            seconds = round(time.monotonic() - began, 1)
            shown = {name: round(value, 4) for name, value in means.items()}
            log.info("exp.epoch", job=self.job.name, epoch=progress.epoch, of=asked.epochs, seconds=seconds, **shown)

    def _step(self, micro: list[Batch]) -> dict[str, float]:
        """Take one optimiser step; returns the losses before it, averaged over processes."""
        progress, job = self.progress, self.job
        # Dropout and drawn negatives must not depend on where a run was interrupted.
        torch.manual_seed((job.seed * 1_000_003 + progress.step) * 4096 + self.world.rank)
        rate = learning_rate(job.optimiser, progress.step, self.steps_of_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        for place, batch in enumerate(micro):
            moved = {name: tensor.to(self.world.device, non_blocking=True) for name, tensor in batch.items()}
            with processes.no_sync(self.parallel, place < len(micro) - 1):
                with torch.autocast(self.world.device.type, torch.bfloat16, enabled=job.runtime.precision == "bf16"):
                    parts = self.parallel(moved)
                (parts["total"] / len(micro)).backward()
            for name, loss in parts.items():
                sums[name] = sums.get(name, torch.zeros((), device=loss.device)) + loss.detach().float() / len(micro)
        means = self._averaged({name: float(loss) for name, loss in sums.items()})
        if not math.isfinite(means["total"]):
            raise self._diverged("the loss", means["total"])
        self._descend()
        progress.step += 1
        progress.batches += len(micro)
        self.journal.step(progress.step, {**means, "lr": rate})
        return means

    def _averaged(self, means: dict[str, float]) -> dict[str, float]:
        sums = self.world.sums(list(means.values()))
        return {name: value / self.world.size for name, value in zip(means, sums, strict=True)}

    def _descend(self) -> None:
        """Clip, check and apply the gradient."""
        weights = [weight for weight in self.learner.parameters() if weight.requires_grad]
        norm: Any = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not bool(torch.isfinite(norm)):
            raise self._diverged("the norm of the gradient", float(norm))
        if self.job.optimiser.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(weights, self.job.optimiser.clip, norm)
        self.optimiser.step()

    def _pause(self) -> None:
        """Save where it is time to, and stop where somebody asked any of the processes to."""
        (asked,) = self.world.sums([float(self.stop.number)])
        if asked or self.progress.step % self.job.run.checkpoint_every == 0:
            self.save()
        if asked:
            number = self.stop.number or int(signal.SIGTERM)
            raise InterruptedRunError(
                f"stopped by {signal.Signals(number).name} after step {self.progress.step} of {self.job.name}; saved "
                f"in {self.job.folder / LAST}: continue with --resume"
            )

    def _diverged(self, what: str, value: float) -> DivergedError:
        kept = self.job.folder / LAST
        stands = f"{kept} holds the last good state" if kept.exists() else "no checkpoint was written yet"
        return DivergedError(
            f"{self.job.name}, step {self.progress.step + 1}: {what} is {value}; {stands}; lower the learning rate, "
            "set clip, or use runtime.precision: fp32"
        )

    def save(self) -> None:
        """Write the state that a continuation starts from.

        Raises:
            OutputError: it cannot be written; the former checkpoint stands.
        """
        model = processes.trained_state(self.learner)
        optimiser = processes.optimiser_state(self.learner, self.optimiser)
        state = State(dict(self.job.config), self.progress, model, optimiser)
        self.world.share(lambda: save(self.job.folder / LAST, state))

    def _restore(self, path: Path) -> None:
        found = load(path)
        check_same(path, found.config, self.job.config, self.job.may_change)
        processes.restore(self.learner, self.optimiser, found.model, found.optimiser, str(path))
        self.progress = found.progress
        if self.world.leads:
            log.info("exp.resumed", job=self.job.name, epoch=found.progress.epoch, step=found.progress.step)
