"""One step of Exp-BLIP, or Exp-VQA's training: what the loop is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamfer.errors import ConfigError
from streamfer.models.precision import DTYPES
from streamfer_train.exp_blip.config import MAY_CHANGE, OptimiserConfig
from streamfer_train.exp_blip.data import Batch, PairDataset
from streamfer_train.exp_blip.schedule import build_optimiser, learning_rate
from streamfer_train.recipes.checkpoint import Progress
from streamfer_train.recipes.loading import Loader, TrainSampler, worker_count
from streamfer_train.recipes.processes import ProcessGroup
from streamfer_train.recipes.trainer import Job, Trainer, micro_batch


class ExpTask:
    """A learner whose frozen weights are frozen already, and its pairs, in one of the processes that train it."""

    def __init__(
        self,
        config: Any,
        asked: OptimiserConfig,
        learner: nn.Module,
        dataset: PairDataset,
        collate: Callable[..., Batch],
        world: ProcessGroup,
    ) -> None:
        """Share the pairs out.

        Raises:
            ConfigError: the batch cannot be shared out, or there are fewer pairs than one batch.
        """
        micro = micro_batch(asked.batch, asked.accumulate, world)
        self.asked, self.learner, self.world = asked, learner, world
        self.layers, self.kind = config.model.sizes.vision_layers, DTYPES[config.runtime.precision]
        self.sampler = TrainSampler(
            np.zeros(len(dataset), np.int64), batch_size=micro, seed=config.seed, rank=world.rank, world_size=world.size
        )
        self.steps = self.sampler.batches // asked.accumulate
        if not self.steps:
            raise ConfigError(f"{len(dataset)} pairs are less than one batch of {asked.batch}; lower it")
        workers = worker_count(config.data.workers, world.size)
        self.loader: Loader[Batch] = Loader(
            dataset,
            batch_size=micro,
            sampler=self.sampler,
            workers=workers,
            seed=config.seed,
            persistent_workers=workers > 0,
            pin_memory=world.device.type == "cuda",
            collate_fn=collate,
        )

    def optimiser(self) -> torch.optim.Optimizer:
        """Build AdamW over what learns."""
        return build_optimiser(self.learner, self.asked, self.layers)

    def batches(self, epoch: int, done: int) -> Iterable[Batch]:
        """Return this process's micro-batches of an epoch without the first ``done``."""
        self.sampler.set_epoch(epoch, done)
        return self.loader

    def set_rates(self, optimiser: torch.optim.Optimizer, progress: Progress) -> dict[str, float]:
        """Set each group's learning rate for the next step."""
        rate = learning_rate(self.asked, progress.step, self.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        return {"lr": rate}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the learner's losses."""
        with torch.autocast(self.world.device.type, self.kind, enabled=self.kind != torch.float32):
            parts: Mapping[str, Tensor] = model(batch)
        return parts

    def end_epoch(self, trainer: Trainer, means: dict[str, float]) -> tuple[dict[str, float], str]:
        """Remember the epoch's losses; nothing is measured."""
        trainer.progress.history.append(means)
        return means, ", ".join(f"{name} {value:.4f}" for name, value in means.items())

    def stops_early(self, progress: Progress) -> bool:
        """Every epoch is trained."""
        del progress
        return False


def trainer_of(config: Any, recipe: str, name: str, folder: Path, task: ExpTask) -> Trainer:
    """Return the loop of a step."""
    job = Job(
        recipe=recipe,
        name=name,
        folder=folder,
        config=config.model_dump(mode="json"),
        may_change=MAY_CHANGE,
        seed=config.seed,
        epochs=task.asked.epochs,
        run=config.run,
        log=config.log,
        accumulate=task.asked.accumulate,
        clip=task.asked.clip,
        fp16=config.runtime.precision == "fp16",
        parallel=config.runtime.parallel,
        idle=True,
    )
    return Trainer(job, task, task.world)
