"""Intervals against scipy and against what is known of the distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from streamfer.errors import ConfigError
from streamfer_train.metrics.arrays import plain
from streamfer_train.metrics.intervals import bootstrap, combine, t_interval


def test_t_interval_is_students() -> None:
    folds = [0.7012, 0.7180, 0.7255, 0.6990, 0.7131]
    found = t_interval(folds)
    low, high = stats.t.interval(0.95, 4, np.mean(folds), stats.sem(folds))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(folds), low, high))
    assert found.percent() == f"{100 * np.mean(folds):.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def test_one_number_has_no_interval() -> None:
    found = t_interval([0.5])
    assert math.isnan(found.low)
    assert (found.percent(), found.plain()) == ("50.00", "0.500")
    assert plain(found)["low"] is None


def test_folds_and_seeds_are_averaged_apart() -> None:
    numbers = {(fold, seed): 0.5 + 0.1 * fold + 0.01 * seed for fold in (1, 2, 3) for seed in (1, 2, 3)}
    found = combine(numbers)
    assert found.mean == pytest.approx(0.72)
    assert found.over_folds.count == 3
    assert found.over_seeds.count == 3
    width = found.over_folds.high - found.over_folds.low
    assert width == pytest.approx(10 * (found.over_seeds.high - found.over_seeds.low))


def test_a_missing_run_is_named() -> None:
    with pytest.raises(ConfigError, match="fold 2 has no run with seed 7"):
        combine({(1, 1): 0.5, (1, 7): 0.5, (2, 1): 0.5})


def test_bootstrap_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda rows: {"mean": float(values[rows].mean())}, 400, samples=1500)["mean"]
    wanted = 2 * 1.96 * values.std() / 20
    assert found.value == values.mean()
    assert found.high - found.low == pytest.approx(wanted, rel=0.1)


def test_groups_are_resampled_whole() -> None:
    # Ten groups of forty equal clips: as good as ten clips, however many rows there are.
    of_group = np.random.default_rng(2).normal(size=10)
    groups = np.repeat([f"film {n}" for n in range(10)], 40)
    values = np.repeat(of_group, 40)

    def mean(rows: np.ndarray) -> dict[str, float]:
        assert len(rows) == 400
        return {"mean": float(values[rows].mean())}

    alone = bootstrap(mean, 400, samples=500)["mean"]
    grouped = bootstrap(mean, 400, groups=groups, samples=500)["mean"]
    assert grouped.count == 10
    assert grouped.high - grouped.low == pytest.approx((alone.high - alone.low) * math.sqrt(40), rel=0.25)


def test_a_statistic_that_a_resample_lacks_is_left_out() -> None:
    found = bootstrap(lambda rows: {"x": math.nan if 0 in rows else 1.0}, 20, samples=200)["x"]
    assert (found.low, found.high) == (1.0, 1.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.arange(30.0)
    runs = [bootstrap(lambda rows: {"m": float(values[rows].mean())}, 30, samples=50, seed=s)["m"] for s in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 groups for 4 clips"):
        bootstrap(lambda rows: {}, 4, groups=["a", "b", "c"])
