"""The threshold that serves each action unit best: the one with the highest F1 on clips to choose by.

Shape suffixes: N clips, A action units. NaN among the targets means that nobody coded this unit on this clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from streamfer_train.metrics.arrays import BoolArray, FloatArray, Values
from streamfer_train.metrics.detection import checked


def best_thresholds(
    scores_NA: Values, targets_NA: Values, names: Sequence[str], *, present_above: float = 0.5
) -> dict[str, float]:
    """Return the threshold with the highest F1 of each unit; infinite for a unit that is present on no coded clip.

    It lies half way between the lowest score that counts as present and the next lower one, so that rounding of a
    score does not decide.

    Raises:
        ConfigError: shapes that do not fit, or scores that are not finite.
    """
    scores, targets = checked(scores_NA, targets_NA, names)
    found = {}
    for a, name in enumerate(names):
        coded = ~np.isnan(targets[:, a])
        found[name] = _best_threshold(scores[coded, a], targets[coded, a] > present_above)
    return found


def _best_threshold(scores_N: FloatArray, present_N: BoolArray) -> float:
    positives = int(present_N.sum())
    if not positives:
        return math.inf
    order = np.argsort(-scores_N, kind="stable")
    sorted_scores = scores_N[order]
    found = np.cumsum(present_N[order])
    f1 = 2 * found / (np.arange(1, len(order) + 1) + positives)
    # Clips of one score are detected together: only the last of each run is a possible place to cut.
    ends = np.flatnonzero(np.r_[sorted_scores[1:] != sorted_scores[:-1], True])
    best = int(ends[f1[ends].argmax()])
    if best + 1 == len(order):
        return float(sorted_scores[best])
    return float((sorted_scores[best] + sorted_scores[best + 1]) / 2)
