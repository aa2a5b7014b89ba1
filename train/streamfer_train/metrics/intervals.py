"""How far a number can be trusted: intervals over folds, over seeds, and over the clips of one test list.

Three questions have three answers. *Other clips*: :func:`bootstrap` resamples the clips (or whole movies or people)
of one test list. *Another fold*: :func:`t_interval` over the folds' numbers; folds share training data, so the
interval is somewhat too narrow. *Another training run*: :func:`t_interval` over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfer.errors import ConfigError
from streamfer_train.metrics.arrays import FloatArray, IntArray

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean (or the value on all clips) and the interval around it."""

    value: float
    low: float  #: lower end; NaN where one number alone was given
    high: float
    count: int
    level: float = LEVEL

    def percent(self) -> str:
        """Return the value and the interval in percent, as in ``71.25 [70.10, 72.40]``."""
        return self._written(100, 2)

    def plain(self) -> str:
        """Return the value and the interval as they are, with three digits."""
        return self._written(1, 3)

    def _written(self, factor: int, digits: int) -> str:
        if math.isnan(self.value):
            return "–"
        value = f"{self.value * factor:.{digits}f}"
        if math.isnan(self.low):
            return value
        return f"{value} [{self.low * factor:.{digits}f}, {self.high * factor:.{digits}f}]"


def t_interval(values: Iterable[float]) -> Interval:
    """Return the mean of folds' or seeds' numbers and its t interval, without ends for one; none are a ConfigError."""
    from scipy import stats

    numbers = np.asarray(list(values), dtype=np.float64)
    if not len(numbers):
        raise ConfigError("an interval needs at least one number")
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    return Interval(mean, mean - reach, mean + reach, len(numbers))


@dataclass(frozen=True, slots=True)
class FoldsAndSeeds:
    """A number from several folds and seeds: its mean over all, and what another fold or seed would change."""

    mean: float  #: mean over seeds of the mean over folds, as papers report it
    over_folds: Interval  #: interval over the folds' numbers, each averaged over its seeds
    over_seeds: Interval  #: interval over the seeds' numbers, each averaged over its folds


def combine(numbers: Mapping[tuple[int, int], float]) -> FoldsAndSeeds:
    """Combine numbers by (fold, seed); a ConfigError where a seed lacks a fold, which would weigh folds unevenly."""
    folds, seeds = sorted({fold for fold, _ in numbers}), sorted({seed for _, seed in numbers})
    if missing := [(fold, seed) for fold in folds for seed in seeds if (fold, seed) not in numbers]:
        raise ConfigError(f"fold {missing[0][0]} has no run with seed {missing[0][1]}; run it, or leave that seed out")
    by_fold = [float(np.mean([numbers[fold, seed] for seed in seeds])) for fold in folds]
    by_seed = [float(np.mean([numbers[fold, seed] for fold in folds])) for seed in seeds]
    over_folds = t_interval(by_fold)
    return FoldsAndSeeds(over_folds.value, over_folds, t_interval(by_seed))


def bootstrap(
    statistics: Callable[[IntArray], Mapping[str, float]],
    count: int,
    *,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Resample clips with replacement and return a percentile interval for each statistic.

    Args:
        statistics: from row numbers (with repeats) to named numbers; called once with all rows and ``samples`` times
            with resampled ones. NaN (a class that is absent from a resample) is left out of the percentiles.
        groups: one value a clip (movie, person); whole groups are resampled then, because clips of one group are
            alike and the interval over clips alone would be too narrow.

    Raises:
        ConfigError: groups of another length.
    """
    members = _members(groups, count)
    random = np.random.default_rng(seed)
    whole = statistics(np.arange(count))
    drawn: dict[str, FloatArray] = {name: np.empty(samples) for name in whole}
    for sample in range(samples):
        chosen = random.integers(0, len(members), len(members)) if members else random.integers(0, count, count)
        rows = np.concatenate([members[group] for group in chosen]) if members else chosen
        for name, value in statistics(rows).items():
            drawn[name][sample] = value
    tails = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    units = len(members) or count
    found = {}
    for name, value in whole.items():
        usable = drawn[name][~np.isnan(drawn[name])]
        low, high = np.percentile(usable, tails) if units > 1 and len(usable) else (math.nan, math.nan)
        found[name] = Interval(float(value), float(low), float(high), units)
    return found


def _members(groups: Sequence[Any] | NDArray[Any] | None, count: int) -> list[IntArray]:
    """Rows of each group; empty without groups."""
    if groups is None:
        return []
    if len(groups) != count:
        raise ConfigError(f"{len(groups)} groups for {count} clips; expected one a clip")
    _, place = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    order = np.argsort(place, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(place[order])) + 1)
