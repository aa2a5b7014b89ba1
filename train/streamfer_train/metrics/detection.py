"""Action units and other present-or-absent targets, scores of them or answers to questions: ranking and F1.

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

_PRESENT = 0.5


@dataclass(frozen=True, slots=True)
class DetectionScore:
    """One unit."""

    count: int
    positives: int
    auc: float  #: area under the ROC curve; NaN where it is present on all clips or none
    f1: float  #: at its threshold, 0.5 where none is given; NaN where present on none and never detected


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
    thresholds: Mapping[str, float] | None = None,
    present_above: float = _PRESENT,
) -> DetectionReport:
    """Score each unit over the clips on which it was coded; choose ``thresholds`` on *other* clips than these.

    Raises:
        ConfigError: shapes that do not fit, or scores that are not finite.
    """
    scores, targets = checked(scores_NA, targets_NA, names)
    units = {}
    for a, name in enumerate(names):
        coded = ~np.isnan(targets[:, a])
        threshold = _PRESENT if thresholds is None else thresholds[name]
        units[name] = _score(scores[coded, a], targets[coded, a] > present_above, threshold)
    every = units.values()
    return DetectionReport(_mean([one.auc for one in every]), _mean([one.f1 for one in every]), units)


def checked(scores_NA: Values, targets_NA: Values, names: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Return both as float64 (N, A); a ConfigError where shapes do not fit, or scores are not finite."""
    scores, targets = as_floats(scores_NA), as_floats(targets_NA)
    if scores.ndim != 2 or scores.shape != targets.shape or scores.shape[1] != len(names):
        raise ConfigError(f"scores {scores.shape}, targets {targets.shape} and {len(names)} names do not fit together")
    if not np.isfinite(scores).all():
        raise ConfigError("scores are not finite: the model diverged")
    return scores, targets


def _score(scores_N: FloatArray, present_N: BoolArray, threshold: float) -> DetectionScore:
    from sklearn.metrics import f1_score, roc_auc_score

    positives, count = int(present_N.sum()), len(present_N)
    return DetectionScore(
        count=count,
        positives=positives,
        auc=float(roc_auc_score(present_N, scores_N)) if 0 < positives < count else math.nan,
        f1=float(f1_score(present_N, scores_N >= threshold, zero_division=np.nan)) if count else math.nan,
    )


def _mean(values: Sequence[float]) -> float:
    return math.nan if np.isnan(values).all() else float(np.nanmean(values))


@dataclass(frozen=True, slots=True)
class Answered:
    """One question: the probability of yes (0-1), the truth, and the action unit asked about where that is known."""

    probability: float
    truth: bool
    unit: int | None = None


def score_answers(answers: Sequence[Answered], threshold: float = 0.5) -> dict[str, Any]:
    """Return F1, precision, recall and accuracy at ``threshold``, area under the ROC curve, and Brier score.

    ``always_yes_f1`` is the floor. With units, F1 of each that occurs, and their mean. What cannot be said for want
    of cases is None.

    Raises:
        ConfigError: there are no answers.
    """
    if not answers:
        raise ConfigError("no yes-or-no question to score; the list needs answers that are yes or no")
    from sklearn.metrics import roc_auc_score

    given = np.array([one.probability for one in answers])
    truth = np.array([one.truth for one in answers])
    said = given > threshold
    report: dict[str, Any] = {"questions": len(answers), "yes": int(truth.sum()), **_counts(said, truth)}
    report["accuracy"] = _rounded((said == truth).mean())
    report["roc_auc"] = None if truth.all() or not truth.any() else _rounded(roc_auc_score(truth, given))
    report["brier"] = _rounded(((given - truth) ** 2).mean())
    report["always_yes_f1"] = _counts(np.ones_like(truth), truth)["f1"]
    asked = np.array([-1 if one.unit is None else one.unit for one in answers])
    if (asked >= 0).any():
        occurring = sorted({int(unit) for unit in asked[truth & (asked >= 0)]})
        each = {str(unit): _counts(said[asked == unit], truth[asked == unit])["f1"] for unit in occurring}
        report["unit_f1"] = each
        report["mean_f1"] = _rounded(sum(each.values()) / len(each)) if each else None
    return report


def _counts(said: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> dict[str, float]:
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, _ = precision_recall_fscore_support(truth, said, average="binary", zero_division=0)
    return {"f1": _rounded(f1), "precision": _rounded(precision), "recall": _rounded(recall)}


def _rounded(value: float) -> float:
    return round(float(value), 4)
