"""Losses of the heads: classes, valence and arousal, action units; missing labels never count.

Shape suffixes: B clips, C classes, A action units.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from streamfer_train.dfer_clip.config import HeadsConfig


def concordance(predicted_B: torch.Tensor, target_B: torch.Tensor) -> torch.Tensor:
    """Return Lin's concordance correlation of two variables, a scalar in -1 to 1.

    Source: Lin, A Concordance Correlation Coefficient to Evaluate Reproducibility, Biometrics 1989, equation 2.
    """
    mean_p, mean_t = predicted_B.mean(), target_B.mean()
    covariance = ((predicted_B - mean_p) * (target_B - mean_t)).mean()
    spread = predicted_B.var(correction=0) + target_B.var(correction=0) + (mean_p - mean_t) ** 2
    return 2 * covariance / (spread + 1e-8)


def valence_arousal_loss(predicted_B2: torch.Tensor, target_B2: torch.Tensor) -> torch.Tensor:
    """Return 1 - concordance, averaged over both, plus the mean squared error; clips with NaN do not count.

    One clip has no spread, so its concordance is left out and the squared error alone counts.
    """
    known_B = torch.isfinite(target_B2).all(dim=1)
    if int(known_B.sum()) == 0:
        return predicted_B2.sum() * 0.0
    predicted, target = predicted_B2[known_B], target_B2[known_B]
    squared = F.mse_loss(predicted, target)
    if len(target) < 2:
        return squared
    agreement = torch.stack([concordance(predicted[:, i], target[:, i]) for i in range(2)]).mean()
    return 1 - agreement + squared


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
        batch: ``label`` int64 (B,), and ``valence_arousal`` (B, 2) or ``actions`` (B, A) where their heads are.
        config: weights of the losses.
    """
    logits_BC = outputs["logits"].float()
    parts = {"classes": F.cross_entropy(logits_BC, batch["label"], label_smoothing=config.label_smoothing)}
    if "valence_arousal" in outputs:
        loss = valence_arousal_loss(outputs["valence_arousal"].float(), batch["valence_arousal"])
        parts["valence_arousal"] = config.valence_arousal * loss
    if "actions" in outputs:
        parts["actions"] = config.actions * actions_loss(outputs["actions"].float(), batch["actions"])
    return {**parts, "total": torch.stack(list(parts.values())).sum()}
