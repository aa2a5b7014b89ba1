"""Calibration after training: one temperature, or a scale and a bias for each class.

All fits minimise the negative log-likelihood, which is convex in what they fit.
Shape suffixes: N clips, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamfer.errors import ConfigError
from streamfer_train.metrics.arrays import FloatArray, IntArray, Values, as_labels, as_scores, log_softmax

#: Where every clip is right (or wrong) the best temperature has no bound; it stays within these.
TEMPERATURES = (0.02, 50.0)
_LARGEST_SCALE = 50.0
_LARGEST_BIAS = 20.0


def fit_temperature(logits_NC: Values, labels_N: Values) -> float:
    """Return the divisor of the logits with the least negative log-likelihood, within ``TEMPERATURES``.

    The likelihood is concave in the inverse temperature, so the root of its derivative is found by bisection.
    Fit on clips that no number is reported on: a validation split, or :func:`cross_fitted`.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.

    Raises:
        ConfigError: no clips, shapes that do not fit, a label out of range, or logits that are not finite.
    """
    from scipy.optimize import brentq

    logits = as_scores(logits_NC)
    labels = as_labels(labels_N, *logits.shape)
    target = logits[np.arange(len(labels)), labels].mean()

    def slope(inverse: float) -> float:
        """Derivative of the mean negative log-likelihood by the inverse temperature; rises with it."""
        expected = (np.exp(log_softmax(logits * inverse)) * logits).sum(axis=1)
        return float(expected.mean() - target)

    coldest, hottest = TEMPERATURES
    if slope(1 / hottest) >= 0:
        return hottest
    if slope(1 / coldest) <= 0:
        return coldest
    return float(1 / brentq(slope, 1 / hottest, 1 / coldest, xtol=1e-9, rtol=1e-9))


@dataclass(frozen=True, slots=True)
class Scaling:
    """Logits times ``scale_C`` plus ``bias_C``; both (C,)."""

    scale_C: FloatArray
    bias_C: FloatArray

    def apply(self, logits_NC: Values) -> FloatArray:
        """Return calibrated logits (N, C)."""
        return as_scores(logits_NC) * self.scale_C + self.bias_C


def fit_scaling(logits_NC: Values, labels_N: Values, kind: Literal["bias", "vector"] = "bias") -> Scaling:
    """Fit one scale and a bias for each class (``bias``), or a scale and a bias for each class (``vector``).

    A bias moves predictions towards rare or frequent classes: unlike a temperature it changes accuracy.

    Source: Guo et al. 2017, section 4.2 (vector scaling).

    Raises:
        ConfigError: as :func:`fit_temperature`, or another kind.
    """
    from scipy.optimize import Bounds, minimize

    if kind not in ("bias", "vector"):
        raise ConfigError(f"scaling is {kind!r}; expected bias or vector")
    logits = as_scores(logits_NC)
    labels = as_labels(labels_N, *logits.shape)
    classes = logits.shape[1]
    scales = 1 if kind == "bias" else classes

    def loss(x: FloatArray) -> tuple[float, FloatArray]:
        log_p = log_softmax(logits * x[:scales] + x[scales:])
        error_NC = (np.exp(log_p) - np.eye(classes)[labels]) / len(labels)
        by_scale = error_NC * logits
        slopes = by_scale.sum(axis=0) if kind == "vector" else np.array([by_scale.sum()])
        return float(-log_p[np.arange(len(labels)), labels].mean()), np.r_[slopes, error_NC.sum(axis=0)]

    start = np.r_[np.full(scales, 1 / fit_temperature(logits, labels)), np.zeros(classes)]
    bounds = Bounds(
        np.r_[np.zeros(scales), np.full(classes, -_LARGEST_BIAS)],
        np.r_[np.full(scales, _LARGEST_SCALE), np.full(classes, _LARGEST_BIAS)],
    )
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
    bias_C = found[scales:] - found[scales:].mean()
    return Scaling(np.broadcast_to(found[:scales], (classes,)).copy(), bias_C)


def cross_fitted(logits_NC: Values, labels_N: Values, *, parts: int = 2, seed: int = 0) -> FloatArray:
    """Return logits (N, C), each divided by the temperature that the other parts ask for.

    So calibration can be measured where there is no further split to fit on: no clip is judged with a temperature
    that it helped to choose.
    """
    logits = as_scores(logits_NC)
    labels = as_labels(labels_N, *logits.shape)
    calibrated = logits.copy()
    for part in _parts(labels, parts, seed):
        others = np.setdiff1d(np.arange(len(labels)), part)
        calibrated[part] = logits[part] / fit_temperature(logits[others], labels[others])
    return calibrated


def _parts(labels_N: IntArray, parts: int, seed: int) -> list[NDArray[np.intp]]:
    """Split clips into parts in which every class has its share; always the same for a seed."""
    if not 2 <= parts <= len(labels_N):
        raise ConfigError(f"{len(labels_N)} clips cannot be split into {parts} parts; give 2 or more of each")
    shuffled = np.random.default_rng(seed).permutation(len(labels_N))
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    return [by_class[start::parts] for start in range(parts)]
