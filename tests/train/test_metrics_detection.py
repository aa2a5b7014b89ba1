"""Action units with gaps in the coding."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from streamfer.errors import ConfigError
from streamfer_train.metrics import detection
from streamfer_train.metrics.arrays import plain

NAN = math.nan


def test_units_agree_with_scikit_learn_where_they_are_coded() -> None:
    random = np.random.default_rng(1)
    targets = (random.random((200, 3)) < 0.3).astype(float)
    scores = np.clip(targets * 0.3 + random.random((200, 3)) * 0.7, 0, 1)
    targets[random.random((200, 3)) < 0.2] = NAN
    found = detection.report(scores, targets, ("AU1", "AU4", "AU12"))
    for a, name in enumerate(found.units):
        coded = ~np.isnan(targets[:, a])
        assert found.units[name].count == coded.sum()
        assert found.units[name].auc == pytest.approx(roc_auc_score(targets[coded, a], scores[coded, a]))
        assert found.units[name].f1 == pytest.approx(f1_score(targets[coded, a], scores[coded, a] >= 0.5))


def test_units_always_or_never_present() -> None:
    scores = np.array([[0.2, 0.9, 0.5], [0.7, 0.8, 0.5]])
    targets = np.array([[0, 1, NAN], [0, 1, NAN]])
    found = detection.report(scores, targets, ("AU1", "AU2", "AU4"))
    never, always, uncoded = found.units.values()
    assert math.isnan(never.auc)
    assert never.f1 == 0
    assert always.f1 == 1
    assert math.isnan(always.auc)
    assert (uncoded.count, uncoded.positives) == (0, 0)
    assert math.isnan(uncoded.f1)
    assert found.mean_f1 == 0.5
    assert math.isnan(found.mean_auc)
    assert plain(found)["units"]["AU4"]["f1"] is None


def test_intensities_are_presence() -> None:
    found = detection.report(np.array([[0.9], [0.1], [0.8]]), np.array([[3], [0], [2]]), ("AU6",))
    assert found.units["AU6"].positives == 2
    assert found.units["AU6"].auc == 1


def test_misfits_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        detection.report(np.zeros((2, 3)), np.zeros((2, 2)), ("AU1", "AU2"))
    with pytest.raises(ConfigError, match="diverged"):
        detection.report(np.array([[NAN], [1]]), np.array([[0], [1.0]]), ("AU1",))
