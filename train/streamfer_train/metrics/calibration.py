"""Calibration after training: one temperature, with the least negative log-likelihood.

Shape suffixes: N clips, C classes.
"""

from __future__ import annotations

import numpy as np

from streamfer_train.metrics.arrays import Values, as_labels, as_scores, log_softmax

#: Where every clip is right (or wrong) the best temperature has no bound; it stays within these.
TEMPERATURES = (0.02, 50.0)


def fit_temperature(logits_NC: Values, labels_N: Values) -> float:
    """Return the divisor of the logits with the least negative log-likelihood, within ``TEMPERATURES``.

    The likelihood is concave in the inverse temperature, so the root of its derivative is found by bisection.
    Fit on clips that no number is reported on: a validation split.

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
