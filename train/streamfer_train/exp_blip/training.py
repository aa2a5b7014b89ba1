"""One step of Exp-BLIP, or Exp-VQA's training: what the loop is given, and which weights learn how fast."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamfer.errors import ConfigError
from streamfer.models.precision import DTYPES
from streamfer_train.captions.files import Pair
from streamfer_train.exp_blip.config import MAY_CHANGE, OptimiserConfig
from streamfer_train.exp_blip.data import PairDataset
from streamfer_train.recipes.checkpoint import Progress
from streamfer_train.recipes.loading import Batch, Loader, TrainSampler, worker_count
from streamfer_train.recipes.processes import ProcessGroup
from streamfer_train.recipes.trainer import Job, Trainer, Unmeasured, half_cosine, micro_batch

_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")


class ExpTask(Unmeasured):
    """A learner whose frozen weights are frozen already, and its pairs, in one of the processes that train it."""

    def __init__(
        self,
        config: Any,
        asked: OptimiserConfig,
        learner: nn.Module,
        pairs: Sequence[Pair],
        collate: Callable[..., Batch],
        world: ProcessGroup,
    ) -> None:
        micro = micro_batch(asked.batch, asked.accumulate, world)
        dataset = PairDataset(pairs, config.model.sizes.image, config.augmentation, config.seed)
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
        return build_optimiser(self.learner, self.asked, self.layers)

    def batches(self, epoch: int, done: int) -> Iterable[Batch]:
        self.sampler.set_epoch(epoch, done)
        return self.loader

    def set_rates(self, optimiser: torch.optim.Optimizer, progress: Progress) -> dict[str, float]:
        rate = learning_rate(self.asked, progress.step, self.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        return {"lr": rate}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        with torch.autocast(self.world.device.type, self.kind, enabled=self.kind != torch.float32):
            parts: Mapping[str, Tensor] = model(batch)
        return parts


def trainer_of(config: Any, recipe: str, name: str, folder: Path, task: ExpTask) -> Trainer:
    more = {"may_change": MAY_CHANGE, "seed": config.seed, "parallel": config.runtime.parallel, "idle": True}
    return Trainer(Job.of(config, task.asked, recipe, name, folder, **more), task, task.world)


def learning_rate(config: OptimiserConfig, step: int, steps_of_epoch: int) -> float:
    """Return the learning rate of optimiser step ``step`` (from 0).

    ``cosine_epoch``: in the first epoch from ``warmup_lr`` up to ``lr`` over ``warmup`` steps, later
    min + (lr - min) (1 + cos(pi epoch / epochs)) / 2, constant within an epoch. Source: LAVIS,
    ``linear_warmup_cosine_lr``. ``cosine``: the same fall after the warm-up, at every step.
    """
    epoch = step // steps_of_epoch
    warming = step < config.warmup if config.schedule == "cosine" else epoch == 0 and config.warmup > 0
    if warming:
        return min(config.lr, config.warmup_lr + (config.lr - config.warmup_lr) * step / config.warmup)
    if config.schedule == "cosine_epoch":
        done = epoch / config.epochs
    else:
        done = (step - config.warmup) / max(config.epochs * steps_of_epoch - config.warmup, 1)
    return half_cosine(done, config.lr, config.min_lr)


def depth_factor(name: str, layers: int, decay: float) -> float:
    """Return ``decay`` to the number of blocks above a weight of the image encoder; 1 for every other weight.

    The last block has exponent 1 and the patch embedding ``layers`` + 1, as in BEiT's fine-tuning.
    """
    if "vision_model." not in name or "post_layernorm" in name:
        return 1.0
    match = _BLOCK.search(name)
    return float(decay ** (layers - int(match[1]) if match else layers + 1))


def learns(name: str, config: OptimiserConfig) -> bool:
    """Return whether a weight learns.

    The language model never does. A frozen image encoder leaves its last norm trained, as LAVIS does: there
    ``ln_vision`` is no part of the encoder.
    """
    if "language_model." in name:
        return False
    in_encoder = "vision_model." in name and "post_layernorm" not in name
    return not in_encoder or config.vit == "trained"


def choose_trained(learner: nn.Module, config: OptimiserConfig) -> None:
    """Let exactly those weights learn that :func:`learns` names."""
    for name, weight in learner.named_parameters():
        weight.requires_grad_(learns(name, config))


def build_optimiser(learner: nn.Module, config: OptimiserConfig, layers: int) -> torch.optim.AdamW:
    """Return AdamW over what learns, in groups of equal decay and depth; each has its ``factor``."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in learner.named_parameters():
        if weight.requires_grad:
            decays = config.decay_all or weight.ndim > 1
            key = (config.weight_decay if decays else 0.0, depth_factor(name, layers, config.vit_layer_decay))
            groups.setdefault(key, []).append(weight)
    described: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": decay, "factor": factor} for (decay, factor), weights in groups.items()
    ]
    return torch.optim.AdamW(described, lr=config.lr, betas=config.betas)
