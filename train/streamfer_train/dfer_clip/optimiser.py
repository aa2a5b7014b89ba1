"""Which weights learn how fast: groups by the authors' name rules, and the schedule."""

from __future__ import annotations

from typing import Any

import torch

from streamfer_train.dfer_clip.config import OptimiserConfig
from streamfer_train.dfer_clip.model import Learner
from streamfer_train.recipes.schedule import half_cosine

#: In the authors' order, then what goes beyond them.
GROUPS = ("temporal_net", "image_encoder", "prompt_learner", "heads", "adapters")
_HEADS = ("text_features", "class_bias", "action_head")


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
