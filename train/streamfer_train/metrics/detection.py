"""Action units and other present-or-absent targets: ranking and F1.

Shape suffixes: N clips, A action units. NaN among the targets means that nobody coded this unit on this clip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamfer.errors import ConfigError
from streamfer_train.metrics.arrays import BoolArray, FloatArray, Values, as_floats


@dataclass(frozen=True, slots=True)
class DetectionScore:
    """One unit.

    Attributes:
        auc: area under the ROC curve; NaN where it is present on all clips or none.
        f1: at ``threshold``; NaN where present on none and never detected.
    """

    count: int
    positives: int
    auc: float
    f1: float
    threshold: float


@dataclass(frozen=True, slots=True)
class DetectionReport:
    """Every unit by name, and means over the units whose number is defined."""

    mean_auc: float
    mean_f1: float
    units: dict[str, DetectionScore]


def report(
    scores_NA: Values,
    targets_NA: Values,
    names: Sequence[str],
    *,
    thresholds: Mapping[str, float] | float = 0.5,
    present_above: float = 0.5,
) -> DetectionReport:
    """Score each unit over the clips on which it was coded.

    Args:
        scores_NA: anything that rises with presence: probabilities, logits or intensities.
        thresholds: on the scores, one for all or one a unit. Choose them on *other*
            clips than these; the best threshold on the clips reported on flatters.

    Raises:
        ConfigError: shapes that do not fit, scores that are not finite, or a unit without a threshold.
    """
    scores, targets = checked(scores_NA, targets_NA, names)
    units = {}
    for a, name in enumerate(names):
        coded = ~np.isnan(targets[:, a])
        cut = _threshold(thresholds, name)
        units[name] = _score(scores[coded, a], targets[coded, a] > present_above, cut)
    return DetectionReport(
        _mean(score.auc for score in units.values()),
        _mean(score.f1 for score in units.values()),
        units,
    )


def checked(scores_NA: Values, targets_NA: Values, names: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Return both as float64 (N, A)."""
    scores, targets = as_floats(scores_NA), as_floats(targets_NA)
    if scores.ndim != 2 or scores.shape != targets.shape or scores.shape[1] != len(names):
        raise ConfigError(f"scores {scores.shape}, targets {targets.shape} and {len(names)} names do not fit together")
    if not np.isfinite(scores).all():
        raise ConfigError("scores are not finite: the model diverged")
    return scores, targets


def _threshold(thresholds: Mapping[str, float] | float, name: str) -> float:
    if not isinstance(thresholds, Mapping):
        return float(thresholds)
    if name not in thresholds:
        raise ConfigError(f"no threshold for {name!r}; thresholds are given for {', '.join(thresholds)}")
    return float(thresholds[name])


def _score(scores_N: FloatArray, present_N: BoolArray, threshold: float) -> DetectionScore:
    from sklearn.metrics import f1_score, roc_auc_score

    positives, count = int(present_N.sum()), len(present_N)
    return DetectionScore(
        count=count,
        positives=positives,
        auc=float(roc_auc_score(present_N, scores_N)) if 0 < positives < count else math.nan,
        f1=float(f1_score(present_N, scores_N >= threshold, zero_division=np.nan)) if count else math.nan,
        threshold=threshold,
    )


def _mean(values: Any) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
