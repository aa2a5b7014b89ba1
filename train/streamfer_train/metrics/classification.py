"""What a classifier of clips is worth: recalls, confusion, calibration and what abstaining would gain.

Shape suffixes: N clips, C classes, K coverages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax

from streamfer.errors import ConfigError
from streamfer_train.metrics.arrays import BoolArray, FloatArray, IntArray, Values, as_labels, as_scores, plain

#: Bins of the calibration errors, as in the literature (Guo et al. 2017).
BINS = 15
#: Probabilities below this count as this in the log-likelihood, so that one clip cannot make it infinite.
_SMALLEST = 1e-12
#: Where every clip is right (or wrong) the best temperature has no bound; it stays within these.
TEMPERATURES = (0.02, 50.0)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is said of one set of predictions; rates are in 0-1."""

    classes: tuple[str, ...]
    count: int
    war: float
    uar: float
    #: mean recall as the authors of DFER-CLIP compute it: over the classes that occur among targets *or* predictions.
    #: NaN where a class is predicted that no target has (0/0 there); equal to ``uar`` otherwise. A class in neither is
    #: left out by both.
    uar_authors: float
    recalls: dict[str, float]
    confusion_CC: IntArray  #: counts, rows are targets and columns predictions, all classes in order
    ece: float
    nll: float
    brier: float  #: mean over clips of the squared error summed over classes, 0-2
    aurc: float  #: area under the risk-coverage curve; 0 is perfect, 1 - war is what random abstention gives

    def numbers(self) -> dict[str, float]:
        """Return the scalar scores by name, for logs and tables."""
        names = ("war", "uar", "uar_authors", "ece", "nll", "brier", "aurc")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; NaN becomes None."""
        return {
            "count": self.count,
            **plain(self.numbers()),
            "recalls": plain(self.recalls),
            "classes": list(self.classes),
            "confusion": self.confusion_CC.tolist(),
        }


def report(logits_NC: Values, labels_N: Values, classes: Sequence[str]) -> Report:
    """Score logits (N, C), any float type and device, against class numbers (N,).

    Raises:
        ConfigError: no clips, shapes that do not fit, a label out of range, or logits that are not finite.
    """
    log_probabilities_NC = log_softmax(as_scores(logits_NC), axis=1)
    count, width = log_probabilities_NC.shape
    if len(classes) != width:
        raise ConfigError(f"{len(classes)} class names for scores of {width} classes")
    labels = as_labels(labels_N, count, width)
    probabilities_NC = np.exp(log_probabilities_NC)
    predicted = log_probabilities_NC.argmax(axis=1)
    confidence = probabilities_NC.max(axis=1)
    hit = predicted == labels
    table_CC = confusion(predicted, labels, width)
    recalls_C = recalls(table_CC)
    likelihood = np.maximum(log_probabilities_NC[np.arange(count), labels], math.log(_SMALLEST))
    return Report(
        classes=tuple(classes),
        count=count,
        war=float(hit.mean()),
        uar=float(np.nanmean(recalls_C)),
        uar_authors=uar_of_authors(table_CC),
        recalls=dict(zip(classes, recalls_C.tolist(), strict=True)),
        confusion_CC=table_CC,
        ece=calibration_error(confidence, hit),
        nll=float(-likelihood.mean()),
        brier=float(((probabilities_NC - np.eye(width)[labels]) ** 2).sum(axis=1).mean()),
        aurc=risk_coverage(confidence, hit).area,
    )


def confusion(predicted_N: IntArray, labels_N: IntArray, classes: int) -> IntArray:
    """Count (target, prediction) pairs; (C, C) with every class in it."""
    pairs = np.bincount(labels_N * classes + predicted_N, minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


def recalls(confusion_CC: IntArray) -> FloatArray:
    """Return the recall of each class (C,), NaN for a class without targets."""
    totals_C = confusion_CC.sum(axis=1)
    out = np.full(len(totals_C), np.nan)
    np.divide(confusion_CC.diagonal(), totals_C, out=out, where=totals_C > 0)
    return out


def uar_of_authors(confusion_CC: IntArray) -> float:
    """Return the mean recall over classes among targets or predictions; NaN where one of them has no target.

    Source: main.py of DFER-CLIP: scikit-learn's ``confusion_matrix`` keeps the labels that occur in either list,
    and each row is divided by its sum.
    """
    occurs_C = (confusion_CC.sum(axis=1) + confusion_CC.sum(axis=0)) > 0
    return float(recalls(confusion_CC)[occurs_C].mean())


def calibration_error(confidence_N: FloatArray, hit_N: BoolArray, *, bins: int = BINS) -> float:
    """Return the mean distance of confidence and accuracy over bins, weighted by their share of the clips.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    return float(sum(b.share * abs(b.confidence - b.accuracy) for b in calibration_bins(confidence_N, hit_N, bins)))


@dataclass(frozen=True, slots=True)
class Bin:
    """Clips of like confidence: their mean confidence, their accuracy, their share of all clips, all in 0-1."""

    confidence: float
    accuracy: float
    share: float


def calibration_bins(confidence_N: FloatArray, hit_N: BoolArray, bins: int = BINS) -> tuple[Bin, ...]:
    """Group clips by confidence into (0, 1/bins], (1/bins, 2/bins], ..., in rising order; empty bins are left out."""
    index = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    return tuple(
        Bin(float(confidence_N[index == b].mean()), float(hit_N[index == b].mean()), float((index == b).mean()))
        for b in np.unique(index)
    )


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """Error rate among the most confident clips, by how many of them are kept."""

    coverage_K: FloatArray
    risk_K: FloatArray
    area: float  #: mean risk over all coverages (AURC)

    def risk_at(self, coverage: float) -> float:
        """Return the risk at the smallest coverage that is at least ``coverage``."""
        place = int(np.searchsorted(self.coverage_K, coverage - 1e-12))
        return float(self.risk_K[min(place, len(self.risk_K) - 1)])


def risk_coverage(confidence_N: FloatArray, hit_N: BoolArray) -> RiskCoverage:
    """Rank clips by confidence and measure the error of each leading part; ties count with their mean.

    Source: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017.
    """
    order = np.argsort(-confidence_N, kind="stable")
    errors = _tied_means(confidence_N[order], (~hit_N[order]).astype(np.float64))
    ranks = np.arange(1, len(order) + 1)
    risk_K = np.cumsum(errors) / ranks
    return RiskCoverage(ranks / len(order), risk_K, float(risk_K.mean()))


def _tied_means(sorted_N: FloatArray, values_N: FloatArray) -> FloatArray:
    """Replace values by their mean within runs of equal keys: what any order of the tied clips gives on average."""
    starts = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])
    lengths = np.diff(np.r_[starts, len(sorted_N)])
    means: FloatArray = np.repeat(np.add.reduceat(values_N, starts) / lengths, lengths)
    return means


def fit_temperature(logits_NC: Values, labels_N: Values) -> float:
    """Return the divisor of the logits with the least negative log-likelihood, within ``TEMPERATURES``.

    The likelihood is concave in the inverse temperature, so the root of its derivative is found by bisection.
    Fit on clips that no number is reported on: a validation split. Refused is what :func:`report` refuses.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    logits = as_scores(logits_NC)
    labels = as_labels(labels_N, *logits.shape)
    target = logits[np.arange(len(labels)), labels].mean()

    def slope(inverse: float) -> float:
        """Derivative of the mean negative log-likelihood by the inverse temperature; rises with it."""
        expected = (np.exp(log_softmax(logits * inverse, axis=1)) * logits).sum(axis=1)
        return float(expected.mean() - target)

    coldest, hottest = TEMPERATURES
    if slope(1 / hottest) >= 0:
        return hottest
    if slope(1 / coldest) <= 0:
        return coldest
    return float(1 / brentq(slope, 1 / hottest, 1 / coldest, xtol=1e-9, rtol=1e-9))
