"""Pictures of a report: confusion matrix, reliability diagram, risk over coverage; PNG or SVG by the file's suffix.

matplotlib is imported when a picture is drawn; figures are made without pyplot, so nothing global changes and no
display is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamfer.errors import ConfigError, OutputError
from streamfer.extras import needs
from streamfer_train.metrics.arrays import BoolArray, FloatArray
from streamfer_train.metrics.classification import Report, RiskCoverage, calibration_bins, calibration_error

_INK, _QUIET, _LINE, _GRID = "#1f2933", "#66727f", "#9aa5b1", "#e4e7eb"
#: One hue from paper to ink: more of a row is darker.
_SHADES = ("#f7fafc", "#d6e6f2", "#a3c9e2", "#62a0ca", "#2f74a8", "#174a7c", "#0b2a4a")
_SERIES = ("#2f74a8", "#d1682f", "#3d8f6d", "#8a5aa8", "#b8912a", "#5b6770")
_GAP = "#d1682f"
_SUFFIXES = (".png", ".svg")


def confusion_picture(report: Report, path: Path, title: str = "") -> Path:
    """Draw the confusion matrix, each row in percent of its targets, and write it to ``path``.

    The diagonal is the recall. A class without targets has an empty row.

    Raises:
        ConfigError: another suffix than .png or .svg, or matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    from matplotlib.colors import LinearSegmentedColormap

    counts_CC = report.confusion_CC
    totals_C = counts_CC.sum(axis=1, keepdims=True)
    shares_CC = np.divide(counts_CC, totals_C, out=np.zeros(counts_CC.shape), where=totals_C > 0)
    size = len(report.classes)
    figure = _figure(2.6 + 0.72 * size, 2.3 + 0.66 * size)
    axes = figure.subplots()
    axes.imshow(shares_CC, cmap=LinearSegmentedColormap.from_list("share", _SHADES), vmin=0, vmax=1, aspect="auto")
    for row in range(size):
        for column in range(size):
            if totals_C[row, 0]:
                _cell(axes, row, column, float(shares_CC[row, column]), int(counts_CC[row, column]))
    axes.set_xticks(range(size), report.classes, rotation=35, ha="right", rotation_mode="anchor", color=_INK)
    rows = [f"{name}  n={int(total)}" for name, total in zip(report.classes, totals_C[:, 0], strict=True)]
    axes.set_yticks(range(size), rows, color=_INK)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", color=_QUIET)
    axes.set_ylabel("target", color=_QUIET)
    _headline(figure, title or "Confusion", f"UAR {report.uar:.2%}   WAR {report.war:.2%}   {report.count:,} clips")
    return _save(figure, path)


def _cell(axes: Any, row: int, column: int, share: float, count: int) -> None:
    colour = "white" if share > 0.45 else _INK if count else _LINE
    text = f"{100 * share:.0f}" if share >= 0.095 or not count else f"{100 * share:.1f}"
    weight = "bold" if row == column else "normal"
    axes.text(column, row - 0.06, text, ha="center", va="center", color=colour, fontsize=11, fontweight=weight)
    if count:
        axes.text(column, row + 0.27, f"{count:,}", ha="center", va="center", color=colour, fontsize=6.5, alpha=0.75)


def reliability_picture(confidence_N: FloatArray, hit_N: BoolArray, path: Path, title: str = "") -> Path:
    """Draw accuracy over confidence in 15 bins, the gap to perfect calibration, and how clips spread over them.

    Raises:
        ConfigError: another suffix than .png or .svg, or matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    bins = calibration_bins(confidence_N, hit_N)
    confidence = np.array([b.confidence for b in bins])
    accuracy = np.array([b.accuracy for b in bins])
    share = np.array([b.share for b in bins])
    figure = _figure(5.2, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color=_LINE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    upper.text(0.03, 0.055, "perfectly calibrated", color=_QUIET, fontsize=8, rotation=45, rotation_mode="anchor")
    upper.vlines(confidence, accuracy, confidence, color=_GAP, alpha=0.55, linewidth=5, zorder=2, label="gap")
    upper.plot(confidence, accuracy, color=_SERIES[0], linewidth=2, zorder=3)
    upper.scatter(
        confidence, accuracy, s=24 + 300 * share, color=_SERIES[0], edgecolor="white", linewidth=1.2, zorder=4
    )
    upper.set_ylim(0, 1)
    upper.set_ylabel("accuracy", color=_QUIET)
    lower.hist(confidence_N, bins=np.linspace(0, 1, 31), color=_SERIES[0], alpha=0.85, rwidth=0.86)
    lower.axvline(float(confidence_N.mean()), color=_GAP, linewidth=1.5)
    middle = float(confidence_N.mean())
    beside = {"ha": "right", "x": middle - 0.015} if middle > 0.5 else {"ha": "left", "x": middle + 0.015}
    lower.text(
        y=0.93, s="mean confidence", va="top", color=_GAP, fontsize=8, transform=lower.get_xaxis_transform(), **beside
    )
    lower.set_xlim(0, 1)
    lower.set_xlabel("confidence", color=_QUIET)
    lower.set_ylabel("clips", color=_QUIET)
    _plain_axes(upper)
    _plain_axes(lower)
    error, adaptive = calibration_error(confidence_N, hit_N), calibration_error(confidence_N, hit_N, adaptive=True)
    _headline(figure, title or "Reliability", f"ECE {error:.3f}   adaptive {adaptive:.3f}   {len(hit_N):,} clips")
    return _save(figure, path)


def risk_coverage_picture(curves: Mapping[str, RiskCoverage], path: Path, title: str = "") -> Path:
    """Draw the error among the most confident clips over how many are kept, a line for each name.

    The band's lower edge is what perfect ranking would reach with the first curve's errors.

    Raises:
        ConfigError: no curves, another suffix than .png or .svg, or matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    if not curves:
        raise ConfigError("a risk-coverage picture needs at least one curve")
    figure = _figure(5.6, 4.4)
    axes = figure.subplots()
    first = next(iter(curves.values()))
    error = float(first.risk_K[-1])
    best_K = np.maximum(0, first.coverage_K - (1 - error)) / first.coverage_K
    axes.fill_between(first.coverage_K, best_K, np.minimum(first.risk_K, 1), color=_SERIES[0], alpha=0.08, linewidth=0)
    axes.plot(first.coverage_K, best_K, color=_LINE, linewidth=1, linestyle=(0, (4, 3)), label="perfect ranking")
    axes.axhline(error, color=_LINE, linewidth=1)
    axes.annotate(
        "abstaining at random", (0, error), (4, 4), textcoords="offset points", color=_QUIET, fontsize=8, va="bottom"
    )
    for place, (name, curve) in enumerate(curves.items()):
        colour = _SERIES[place % len(_SERIES)]
        axes.plot(curve.coverage_K, curve.risk_K, color=colour, linewidth=2, label=f"{name}  AURC {curve.area:.3f}")
        half = curve.risk_at(0.5)
        # With few clips the nearest larger share of them lies beyond one half.
        share = float(curve.coverage_K[np.searchsorted(curve.coverage_K, 0.5 - 1e-9)])
        axes.scatter([share], [half], s=34, color=colour, edgecolor="white", linewidth=1.2, zorder=4)
        axes.annotate(f"{half:.1%}", (share, half), (-5, 6), textcoords="offset points", ha="right", color=colour)
    highest = max(float(curve.risk_K[len(curve.risk_K) // 20 :].max()) for curve in curves.values())
    axes.set_ylim(0, min(1.0, 1.25 * max(highest, error, 0.02)))
    axes.set_xlim(0, 1)
    axes.set_xlabel("coverage: share of clips that are answered, most confident first", color=_QUIET)
    axes.set_ylabel("risk: error rate among them", color=_QUIET)
    _percent_ticks(axes)
    _plain_axes(axes)
    axes.legend(frameon=False, loc="upper left", fontsize=8.5, labelcolor=_INK)
    _headline(figure, title or "Risk and coverage", f"{len(first.coverage_K):,} clips")
    return _save(figure, path)


def _figure(width: float, height: float) -> Any:
    with needs("train", "a picture of the evaluation"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def _headline(figure: Any, title: str, numbers: str) -> None:
    axes = figure.axes[0]
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=_INK, pad=26)
    above = {"xytext": (0, 8), "textcoords": "offset points", "xycoords": "axes fraction"}
    axes.annotate(numbers, (0, 1), fontsize=9.5, color=_QUIET, va="bottom", annotation_clip=False, **above)


def _plain_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.tick_params(colors=_QUIET, length=3, labelsize=9)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _percent_ticks(axes: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _save(figure: Any, path: Path) -> Path:
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path}: pictures are written as {' or '.join(_SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix.lower() == ".svg" else {})
    except OSError as error:
        raise OutputError(f"{path}: cannot write ({error.strerror}); choose another folder") from error
    return path
