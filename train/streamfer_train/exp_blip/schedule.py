"""Learning rates over time and over the depth of the image encoder, and which weights learn at all."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from streamfer_train.exp_blip.config import OptimiserConfig
from streamfer_train.recipes.schedule import half_cosine

_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")


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
