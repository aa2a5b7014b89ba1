"""Answers to yes-or-no questions as probabilities: F1, and what a threshold does not decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamfer.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Answered:
    """One question: the probability of yes (0-1), the truth, and the action unit asked about where that is known."""

    probability: float
    truth: bool
    unit: int | None = None


def score(answers: Sequence[Answered], threshold: float = 0.5) -> dict[str, Any]:
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
