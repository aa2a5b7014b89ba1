"""One fold under one seed: what the loop is given, which weights learn how fast, and what the protocols choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.backbones import Backbone
from streamfer_train.dfer_clip.config import MAY_CHANGE, OptimiserConfig, RunConfig
from streamfer_train.dfer_clip.folds import Fold
from streamfer_train.dfer_clip.loader import build_loaders
from streamfer_train.dfer_clip.model import RECIPE, Learner, build_learner, losses
from streamfer_train.dfer_clip.predictions import Predictions, predict
from streamfer_train.dfer_clip.protocols import SELECTIONS, Selection, choose
from streamfer_train.recipes.checkpoint import Progress
from streamfer_train.recipes.loading import Batch
from streamfer_train.recipes.processes import ProcessGroup
from streamfer_train.recipes.trainer import Job, Trainer, half_cosine, micro_batch

#: In the authors' order, then what goes beyond them.
GROUPS = ("temporal_net", "image_encoder", "prompt_learner", "heads", "adapters")
_HEADS = ("text_features", "class_bias", "action_head")


class DferTask:
    """Clips, model and losses of one fold, in one of the processes that train it."""

    def __init__(self, config: RunConfig, fold: Fold, seed: int, world: ProcessGroup, backbone: Backbone) -> None:
        asked = config.optimiser
        self.config = config
        micro = micro_batch(asked.batch, asked.accumulate, world)
        self.loaders = build_loaders(config.data, fold, batch_size=micro, seed=seed, world=world)
        self.steps = self.loaders.order.batches // asked.accumulate
        if not self.steps:
            raise ConfigError(
                f"fold {fold.number}: {len(fold.train)} training clips are less than one batch of {asked.batch}; "
                "lower optimiser.batch"
            )
        self.learner = build_learner(config, backbone, seed)
        choose_trained(self.learner, asked)
        if not any(weight.requires_grad for weight in self.learner.parameters()):
            raise ConfigError("optimiser.freeze leaves nothing to train; take a part out of it")
        self.prepare()

    def prepare(self) -> None:
        if self.config.runtime.compile:
            self.learner.clip.image_encoder.compile()
            self.learner.clip.temporal_net.compile()

    def optimiser(self) -> torch.optim.Optimizer:
        return build_optimiser(self.learner, self.config.optimiser)

    def batches(self, epoch: int, done: int) -> Iterable[Batch]:
        self.loaders.order.set_epoch(epoch, done)
        return self.loaders.train

    def set_rates(self, optimiser: torch.optim.Optimizer, progress: Progress) -> dict[str, float]:
        asked = self.config.optimiser
        scale = factor(asked, progress.epoch + progress.batches / (self.steps * asked.accumulate))
        for group in optimiser.param_groups:
            group["lr"] = float(getattr(asked, group["name"])) * scale
        return {f"lr_{group['name']}": group["lr"] for group in optimiser.param_groups}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return losses(model(batch["pixels"]), batch, self.config.heads)

    def end_epoch(self, trainer: Trainer, means: dict[str, float]) -> tuple[dict[str, float], str]:
        """Score the epoch on both lists, and store what the protocols choose from it."""
        progress, found = trainer.progress, {}
        with trainer.averaged():
            for split, loader in (("test", self.loaders.test), ("held_out", self.loaders.held_out)):
                if loader is not None:
                    trainer.journal.stage(f"epoch {progress.epoch}, {split}", len(loader))
                    found[split] = predict(self.learner, loader, trainer.world, trainer.journal)
        scores = {split: found[split].scores() if split in found else {} for split in ("test", "held_out")}
        progress.history.append({"epoch": progress.epoch, **scores})
        trainer.world.share(lambda: self._keep_chosen(trainer, found))
        row = {f"train_{name}": value for name, value in means.items()}
        row |= {f"{split}_{name}": value for split in scores for name, value in scores[split].items()}
        words = [f"loss {means['total']:.4f}"]
        for split, numbers in scores.items():
            if numbers:
                words.append(f"{split.replace('_', ' ')} UAR {100 * numbers['uar']:.2f} WAR {100 * numbers['war']:.2f}")
        return row, ", ".join(words)

    def _keep_chosen(self, trainer: Trainer, found: Mapping[str, Predictions]) -> None:
        for selection in SELECTIONS:
            if selection == "held_out" and self.loaders.held_out is None:
                continue
            if self._best(selection, trainer.progress) != trainer.progress.epoch:
                continue
            folder = trainer.job.folder
            for split, predictions in found.items():
                predictions.write(folder / "predictions" / f"{selection}_{split}.safetensors")
            # The last epoch's weights stand in the checkpoint that training resumes from.
            if selection != "last":
                trainer.checkpoint(weights_only=True).save(folder / f"{selection}.pt")

    def _best(self, selection: Selection, progress: Progress) -> int:
        return choose(progress.history, selection, self.config.stop.metric)

    def stops_early(self, progress: Progress) -> bool:
        """Whether held-out clips have been scored no better for as long as the configuration waits."""
        patience = self.config.stop.patience
        if not patience or not progress.history:
            return False
        return progress.epoch - self._best("held_out", progress) >= patience


def build_trainer(
    config: RunConfig, fold: Fold, seed: int, folder: Path, world: ProcessGroup, backbone: Backbone
) -> Trainer:
    """Build everything at its random start; a ConfigError where settings contradict each other, data or processes."""
    torch.backends.cuda.matmul.allow_tf32 = config.runtime.tf32
    about: dict[str, Any] = {"fold": fold.number, "seed": seed, "sizes": asdict(backbone.sizes)}
    job = job_of(config, f"fold {fold.number} seed {seed}", folder, about)
    return Trainer(job, DferTask(config, fold, seed, world, backbone), world)


def job_of(config: RunConfig, name: str, folder: Path, about: dict[str, Any]) -> Job:
    seed, average = int(about.get("seed", 1)), config.optimiser.average
    more: dict[str, Any] = {"may_change": MAY_CHANGE, "seed": seed, "average": average, "whole": True, "about": about}
    return Job.of(config, config.optimiser, RECIPE, name, folder, **more)


def group_of(name: str) -> str | None:
    """Return the group of a weight by its name, or None for one that is never trained (the text tower).

    The authors un-freeze by the substrings ``image_encoder``, ``temporal_net`` and ``prompt_learner`` (main.py).
    """
    if "lora_" in name or name.startswith("adapters."):
        return "adapters"
    for group in ("image_encoder", "temporal_net", "prompt_learner"):
        if group in name:
            return group
    return "heads" if any(part in name for part in _HEADS) else None


def choose_trained(learner: Learner, config: OptimiserConfig) -> None:
    """Let exactly those weights learn whose group is not frozen; adapters and LoRA freeze the encoder they sit in."""
    names = [name for name, _ in learner.named_parameters()]
    frozen = set(config.freeze)
    if any(group_of(name) == "adapters" for name in names):
        frozen.add("image_encoder")
    for name, weight in learner.named_parameters():
        group = group_of(name)
        weight.requires_grad_(group is not None and group not in frozen)


def parameter_groups(learner: Learner, config: OptimiserConfig) -> list[dict[str, Any]]:
    """Return the optimiser's groups, each with its ``name`` and base ``lr``; empty ones are left out."""
    groups = []
    for group in GROUPS:
        weights = [w for name, w in learner.named_parameters() if w.requires_grad and group_of(name) == group]
        if weights:
            groups.append({"params": weights, "lr": float(getattr(config, group)), "name": group})
    return groups


def build_optimiser(learner: Learner, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Return SGD as the authors set it up, or AdamW."""
    groups = parameter_groups(learner, config)
    more: dict[str, Any] = {"weight_decay": config.weight_decay}
    if all(weight.is_cuda for group in groups for weight in group["params"]):
        more["fused"] = True  # one kernel for all weights
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, **more)
    return torch.optim.SGD(groups, lr=config.temporal_net, momentum=config.momentum, **more)


def factor(config: OptimiserConfig, epoch: float) -> float:
    """Return what base learning rates are multiplied by after ``epoch`` epochs, with a fraction within one.

    ``multistep``: ``gamma`` to the number of milestones passed (30 and 40 of 50 epochs in the authors' scripts).
    ``cosine``: half a cosine down to 1 %. Both after ``warmup`` epochs that rise linearly.
    """
    if epoch < config.warmup:
        return max(epoch, 1e-3) / config.warmup
    if config.schedule == "multistep":
        return config.gamma ** sum(int(epoch) >= milestone for milestone in config.milestones)
    done = (epoch - config.warmup) / max(config.epochs - config.warmup, 1e-9)
    return half_cosine(done, end=0.01)
