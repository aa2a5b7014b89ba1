"""Calibration after training: one temperature, with the least negative log-likelihood.

Shape suffixes: N clips, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamfer.errors import ConfigError
from streamfer_train.metrics.arrays import FloatArray, IntArray, Values, as_labels, as_scores, log_softmax

#: Where every clip is right (or wrong) the best temperature has no bound; it stays within these.
TEMPERATURES = (0.02, 50.0)


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
