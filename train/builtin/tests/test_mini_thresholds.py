"""The best threshold of a unit, against every other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from streamfer_builtin.mini.thresholds import best_thresholds
from streamfer_train.metrics import detection


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 25))
def test_no_threshold_beats_the_best(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (count, 1)) / 5
    targets = random.integers(0, 2, (count, 1)).astype(float)
    targets[0] = 1
    best = best_thresholds(scores, targets, ("AU12",))
    reached = detection.report(scores, targets, ("AU12",), thresholds=best).units["AU12"].f1
    tried = [f1_score(targets[:, 0], scores[:, 0] >= cut) for cut in np.linspace(-0.1, 1.1, 13)]
    assert reached == pytest.approx(max(tried))


def test_a_unit_that_is_never_present_is_never_detected() -> None:
    assert best_thresholds(np.array([[0.2], [0.7]]), np.zeros((2, 1)), ("AU1",)) == {"AU1": math.inf}
