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
    given = np.array([one.probability for one in answers])
    truth = np.array([one.truth for one in answers])
    report: dict[str, Any] = {"questions": len(answers), "yes": int(truth.sum()), **_counts(given > threshold, truth)}
    report["accuracy"] = _rounded(float(((given > threshold) == truth).mean()))
    report["roc_auc"] = _auc(given, truth)
    report["brier"] = _rounded(float(((given - truth) ** 2).mean()))
    report["always_yes_f1"] = _counts(np.ones_like(truth), truth)["f1"]
    units = sorted({one.unit for one in answers if one.unit is not None})
    if units:
        each = {}
        for unit in units:
            chosen = np.array([one.unit == unit for one in answers])
            if truth[chosen].any():
                each[str(unit)] = _counts(given[chosen] > threshold, truth[chosen])["f1"]
        report["unit_f1"] = each
        report["mean_f1"] = _rounded(sum(each.values()) / len(each)) if each else None
    return report


def _counts(said: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> dict[str, float]:
    hits, false, missed = ((said & truth).sum(), (said & ~truth).sum(), (~said & truth).sum())
    return {
        "f1": _rounded(float(2 * hits / max(2 * hits + false + missed, 1))),
        "precision": _rounded(float(hits / max(hits + false, 1))),
        "recall": _rounded(float(hits / max(hits + missed, 1))),
    }


def _auc(given: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float | None:
    if truth.all() or not truth.any():
        return None
    from scipy.stats import rankdata

    ranks, yes = rankdata(given), int(truth.sum())
    return _rounded(float((ranks[truth].sum() - yes * (yes + 1) / 2) / (yes * (len(truth) - yes))))


def _rounded(value: float) -> float:
    return round(value, 4)
