"""Valence, arousal and other continuous targets: concordance, correlation, squared error.

Shape suffixes: N clips, D dimensions. NaN among the targets means that nobody rated this clip in this dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamfer.errors import ConfigError
from streamfer_train.metrics.arrays import FloatArray, Values, as_floats, plain


@dataclass(frozen=True, slots=True)
class RegressionScore:
    """One dimension: rated clips, concordance (CCC), Pearson's correlation, mean squared error."""

    count: int
    ccc: float
    pearson: float
    mse: float


@dataclass(frozen=True, slots=True)
class RegressionReport:
    """Every dimension by name, and the mean concordance over the dimensions that have one."""

    mean_ccc: float
    dimensions: dict[str, RegressionScore]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; NaN becomes None."""
        found: dict[str, Any] = plain(self)
        return found


def report(predictions_ND: Values, targets_ND: Values, names: Sequence[str]) -> RegressionReport:
    """Score each dimension over the clips rated in it.

    Unlike Pearson's correlation, concordance falls with a wrong scale or offset. Population variances, as the affect
    challenges use it. Source: Lin, A Concordance Correlation Coefficient to Evaluate Reproducibility, Biometrics 1989.

    Raises:
        ConfigError: shapes that do not fit, or predictions that are not finite.
    """
    predictions, targets = as_floats(predictions_ND), as_floats(targets_ND)
    if predictions.ndim != 2 or predictions.shape != targets.shape or predictions.shape[1] != len(names):
        raise ConfigError(
            f"predictions {predictions.shape}, targets {targets.shape} and {len(names)} names do not fit together"
        )
    scores = {name: _score(*_rated(predictions[:, d], targets[:, d])) for d, name in enumerate(names)}
    known = [score.ccc for score in scores.values() if not math.isnan(score.ccc)]
    return RegressionReport(float(np.mean(known)) if known else math.nan, scores)


def _rated(predictions_N: FloatArray, targets_N: FloatArray) -> tuple[FloatArray, FloatArray]:
    if predictions_N.shape != targets_N.shape or predictions_N.ndim != 1:
        raise ConfigError(f"predictions have shape {predictions_N.shape} and targets {targets_N.shape}; expected (N,)")
    if not np.isfinite(predictions_N).all():
        raise ConfigError("predictions are not finite: the model diverged")
    rated = ~np.isnan(targets_N)
    return predictions_N[rated], targets_N[rated]


def _score(predictions: FloatArray, targets: FloatArray) -> RegressionScore:
    if not len(targets):
        return RegressionScore(0, math.nan, math.nan, math.nan)
    apart = predictions - predictions.mean(), targets - targets.mean()
    covariance, spread = float((apart[0] * apart[1]).mean()), (float(apart[0].var()), float(apart[1].var()))
    offset = float((predictions.mean() - targets.mean()) ** 2)
    whole = spread[0] + spread[1] + offset
    both = math.sqrt(spread[0] * spread[1])
    return RegressionScore(
        count=len(targets),
        ccc=2 * covariance / whole if whole > 0 else math.nan,
        pearson=covariance / both if both > 0 else math.nan,
        mse=float(((predictions - targets) ** 2).mean()),
    )
