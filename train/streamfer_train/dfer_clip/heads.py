"""Losses of the heads: classes and action units; missing labels never count.

Shape suffixes: B clips, C classes, A action units.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from streamfer_train.dfer_clip.config import HeadsConfig


def actions_loss(logits_BA: torch.Tensor, target_BA: torch.Tensor) -> torch.Tensor:
    """Return binary cross-entropy averaged over the labels that are known; targets are clamped to 0-1."""
    known_BA = torch.isfinite(target_BA)
    target = torch.where(known_BA, target_BA, 0.0).clamp(0, 1)
    each_BA = F.binary_cross_entropy_with_logits(logits_BA, target, reduction="none")
    return (each_BA * known_BA).sum() / known_BA.sum().clamp(min=1)


def losses(
    outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor], config: HeadsConfig
) -> dict[str, torch.Tensor]:
    """Return each head's loss, weighted, and their sum as ``total``; all scalars in fp32.

    Args:
        outputs: what :class:`~streamfer_train.dfer_clip.model.Learner` returns.
        batch: ``label`` int64 (B,), ``votes`` (B, C) where the list has them, and ``actions`` (B, A)
            where the model has that head.
        config: weights of the losses.
    """
    logits_BC = outputs["logits"].float()
    votes_BC = batch.get("votes")
    # Soft labels: what annotators disagree on is learned as that (FER+: Barsoum et al., ICMI 2016).
    target = batch["label"] if votes_BC is None or not votes_BC.shape[1] else votes_BC
    parts = {"classes": F.cross_entropy(logits_BC, target, label_smoothing=config.label_smoothing)}
    if "actions" in outputs:
        parts["actions"] = config.actions * actions_loss(outputs["actions"].float(), batch["actions"])
    return {**parts, "total": torch.stack(list(parts.values())).sum()}
