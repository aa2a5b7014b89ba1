"""Pictures of a report: confusion matrix, reliability diagram, risk over coverage; PNG or SVG by the file's suffix.

matplotlib and scikit-learn's displays are imported when a picture is drawn; figures are made without pyplot's state, so
nothing global changes and no display is needed. Every function raises MissingExtraError without matplotlib, and
OutputError where the file cannot be written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from streamfer.extras import needs
from streamfer.files import write_whole
from streamfer_train.metrics.arrays import BoolArray, FloatArray
from streamfer_train.metrics.classification import Report, RiskCoverage, calibration_bins, calibration_error


def confusion_picture(report: Report, path: Path, title: str = "Confusion") -> Path:
    """Draw the confusion matrix, each row in percent of its targets, and write it to ``path``.

    The diagonal is the recall. A class without targets has an empty row."""
    counts_CC = report.confusion_CC
    totals_C1 = counts_CC.sum(axis=1, keepdims=True)
    percent_CC = np.divide(100.0 * counts_CC, totals_C1, out=np.zeros(counts_CC.shape), where=totals_C1 > 0)
    size = len(report.classes)
    figure = _figure(2.6 + 0.72 * size, 2.3 + 0.66 * size)
    from sklearn.metrics import ConfusionMatrixDisplay

    axes = figure.subplots()
    shown = ConfusionMatrixDisplay(percent_CC, display_labels=report.classes)
    shown.plot(ax=axes, cmap="Blues", values_format=".0f", colorbar=False, xticks_rotation=35, im_kw={"vmax": 100})
    totals = [f"{name}  n={int(total)}" for name, total in zip(report.classes, totals_C1[:, 0], strict=True)]
    axes.set_yticks(range(size), totals)
    axes.set(xlabel="predicted", ylabel="target, percent of its row")
    _headline(axes, title, f"UAR {report.uar:.2%}   WAR {report.war:.2%}   {report.count:,} clips")
    return _save(figure, path)


def reliability_picture(confidence_N: FloatArray, hit_N: BoolArray, path: Path, title: str = "Reliability") -> Path:
    """Draw accuracy over confidence in 15 bins beside perfect calibration, and how clips spread over them."""
    bins = calibration_bins(confidence_N, hit_N)
    figure = _figure(5.2, 6.0)
    from sklearn.calibration import CalibrationDisplay

    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    accuracy, confidence = np.array([b.accuracy for b in bins]), np.array([b.confidence for b in bins])
    CalibrationDisplay(accuracy, confidence, confidence_N).plot(ax=upper)
    upper.set(xlabel="", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    lower.hist(confidence_N, bins=np.linspace(0, 1, 31))
    lower.set(xlabel="confidence", ylabel="clips")
    _headline(upper, title, f"ECE {calibration_error(confidence_N, hit_N):.3f}   {len(hit_N):,} clips")
    return _save(figure, path)


def risk_coverage_picture(name: str, curve: RiskCoverage, path: Path, title: str = "Risk and coverage") -> Path:
    """Draw the error among the most confident clips over how many are kept, and what perfect ranking would reach."""
    figure = _figure(5.6, 4.4)
    from matplotlib.ticker import PercentFormatter

    axes = figure.subplots()
    error = float(curve.risk_K[-1])
    best_K = np.maximum(0, curve.coverage_K - (1 - error)) / curve.coverage_K
    axes.plot(curve.coverage_K, best_K, color="grey", linestyle="--", linewidth=1, label="perfect ranking")
    axes.axhline(error, color="grey", linewidth=1, label="abstaining at random")
    label = f"{name}  AURC {curve.area:.3f}, {curve.risk_at(0.5):.1%} at one half"
    axes.plot(curve.coverage_K, curve.risk_K, linewidth=2, label=label)
    # The first few clips of a curve may be all wrong, and would squeeze the rest.
    highest = float(curve.risk_K[len(curve.risk_K) // 20 :].max())
    axes.set(xlim=(0, 1), ylim=(0, min(1.0, 1.25 * max(highest, error, 0.02))))
    axes.set(xlabel="coverage: share of clips that are answered", ylabel="risk: error rate among them")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, loc="upper left", fontsize="small")
    _headline(axes, title, f"{len(curve.coverage_K):,} clips")
    return _save(figure, path)


def _figure(width: float, height: float) -> Any:
    with needs("train", "a picture of the evaluation"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def _headline(axes: Any, title: str, numbers: str) -> None:
    axes.set_title(f"{title}\n", loc="left", fontweight="bold")
    axes.set_title(numbers, loc="right", fontsize="small", color="dimgrey")


def _save(figure: Any, path: Path) -> Path:
    write_whole(path, lambda stream: figure.savefig(stream, dpi=160, format=path.suffix[1:]))
    return path
