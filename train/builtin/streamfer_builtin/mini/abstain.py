"""When the expression model must not be believed: what small, turned and blurred faces cost, and where to stop.

The rule is stated once and read off curves on the watched pictures; the same curves on the pictures that were set aside
for the last look are what the card shows. Limits are those of `streamfer.models.expression.Abstention`.

Shape suffixes: N pictures, C classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamfer.faces.quality import sharpness_factor
from streamfer_builtin.mini import augment
from streamfer_builtin.mini.data import Corpus, Pictures
from streamfer_builtin.mini.measure import Network, blurred, reduced, truth

#: A face that is read rightly less often than this is not read: the worst band that still is sets the limit.
LEAST_RIGHT = 0.7
#: Of fewer pictures a band says nothing, and is taken for one that is not read.
FEWEST = 30
#: An answer has to be right more often than wrong.
MORE_RIGHT_THAN_WRONG = 0.5
SIDES = (10, 12, 14, 16, 20, 24, 32)
BLURS = (1.0, 2.0, 3.0)
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
#: Side of the crop over that of the detector's box: median of 9,044 labelled faces of crowds.parquet (5 to 95 %:
#: 1.02 to 1.18).
CROP_PER_BOX = 1.083
#: The pose factor of a face turned by YAW degrees is near exp(-(YAW / 46)^2): medians of 4,816 faces of scenes.parquet
#: with MediaPipe's yaw (0.91 at 12, 0.79 at 22, 0.60 at 35, 0.40 at 50 degrees).
YAW_PER_POSE = 46.0
YAWS = (0.0, 10.0, 20.0, 30.0, 40.0, 90.0)
SHARPNESSES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
PROBABILITIES = tuple(np.arange(0.1, 1.0001, 0.05).round(2).tolist())

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Answers:
    """What the model said of a set: top probability float (N,), whether it was right bool (N,)."""

    confidence: FloatArray
    right: NDArray[np.bool_]

    def where(self, rows: NDArray[Any]) -> Answers:
        """Return those at `rows`."""
        return Answers(self.confidence[rows], self.right[rows])


def pose_of(yaw: float) -> float:
    """Return the usual pose factor of a face turned by `yaw` degrees."""
    return float(np.exp(-((yaw / YAW_PER_POSE) ** 2)))


def choose(network: Network, corpus: Corpus, temperature: float) -> dict[str, Any]:
    """Choose the four limits on the watched pictures; returns them with the curves of the last pictures."""
    chosen = _curves(network, _clear(corpus.val, corpus.held_out), temperature)
    limits = _limits(chosen)
    last = _curves(network, _clear(corpus.last_val, corpus.last_held_out), temperature)
    return {
        "least_right": LEAST_RIGHT,
        "limits": limits,
        "by_side": {str(side): risk_coverage(answers) for side, answers in last.sides.items()},
        "by_yaw": {_named(low, high): risk_coverage(answers) for (low, high), answers in last.yaws.items()},
        "by_sharpness": {_named(low, high): risk_coverage(a) for (low, high), a in last.sharpnesses.items()},
        "answered": _answered(last, limits["min_probability"]),
    }


def risk_coverage(answers: Answers) -> dict[str, Any]:
    """Return the error among the most confident share of the answers, for each of `COVERAGES`, and the area below."""
    wrong = ~answers.right[np.argsort(-answers.confidence, kind="stable")]
    risks = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    at = {f"{share:g}": round(float(risks[max(1, round(share * len(wrong))) - 1]), 4) for share in COVERAGES}
    return {"count": len(wrong), "risk": at, "aurc": round(float(risks.mean()), 4)}


@dataclass(frozen=True, slots=True)
class _Curves:
    sides: dict[int, Answers]
    yaws: dict[tuple[float, float], Answers]
    sharpnesses: dict[tuple[float, float], Answers]
    probabilities: dict[tuple[float, float], Answers]


def _clear(fer: Pictures, faces: Pictures) -> tuple[Pictures, Pictures]:
    return fer.subset(fer.clear), faces


def _curves(network: Network, sets: tuple[Pictures, Pictures], temperature: float) -> _Curves:
    def answered(change: Callable[[Tensor], Tensor]) -> tuple[Answers, FloatArray]:
        crops = [change(augment.crop(s.pixels, s.extent)) for s in sets]
        said = [_answers(network, s, c, temperature) for s, c in zip(sets, crops, strict=True)]
        return _joined(said), np.concatenate([_sharpness(c) for c in crops])

    plain, sharpness = answered(lambda crops: crops)
    pooled, sides = [(plain, sharpness)], {}
    for side in SIDES:
        pooled.append(answered(lambda crops, side=side: _at(crops, side)))  # type: ignore[misc]
        sides[side] = pooled[-1][0]
    pooled += [answered(lambda crops, sigma=sigma: blurred(crops, sigma)) for sigma in BLURS]  # type: ignore[misc]
    yaw = np.abs(np.concatenate([s.pose[:, 0].numpy() for s in sets]))
    everything = _joined([answers for answers, _ in pooled])
    return _Curves(
        sides,
        _binned(plain, yaw, YAWS),
        _binned(everything, np.concatenate([factors for _, factors in pooled]), SHARPNESSES),
        _binned(everything, everything.confidence, PROBABILITIES),
    )


def _limits(curves: _Curves) -> dict[str, float]:
    """Apply the rule to the curves of the watched pictures."""
    sides = _first_of_rest({float(side): answers for side, answers in curves.sides.items()}, LEAST_RIGHT)
    turned = {-high: answers for (_, high), answers in curves.yaws.items()}
    sharp = _first_of_rest({low: answers for (low, _), answers in curves.sharpnesses.items()}, LEAST_RIGHT)
    sure = _first_of_rest({low: a for (low, _), a in curves.probabilities.items()}, MORE_RIGHT_THAN_WRONG)
    return {
        "min_side": sides,
        "min_pose": round(pose_of(-_first_of_rest(turned, LEAST_RIGHT)), 3),
        "min_sharpness": sharp,
        "min_probability": sure,
    }


def _first_of_rest(bands: dict[float, Answers], least: float) -> float:
    """Return the lowest key from which on every band is right often enough; few pictures do not show that."""
    keys = sorted(bands)
    first = keys[-1]
    for key in reversed(keys):
        if len(bands[key].right) < FEWEST or bands[key].right.mean() < least:
            break
        first = key
    return first


def _answers(network: Network, pictures: Pictures, crops: Tensor, temperature: float) -> Answers:
    probabilities = (network.still(network.encode(crops)) / temperature).softmax(1)
    top = probabilities.max(1)
    return Answers(top.values.numpy(), (top.indices == truth(pictures)).numpy())


def _joined(parts: list[Answers]) -> Answers:
    return Answers(np.concatenate([p.confidence for p in parts]), np.concatenate([p.right for p in parts]))


def _binned(answers: Answers, values: FloatArray, edges: tuple[float, ...]) -> dict[tuple[float, float], Answers]:
    bins = {}
    for low, high in itertools.pairwise(edges):
        rows = (values >= low) & (values < high)
        if rows.any():
            bins[low, high] = answers.where(rows)
    return bins


def _answered(curves: _Curves, least: float) -> dict[str, Any]:
    """Return for each size how many are answered at the least probability, and how many of those are right."""
    found = {}
    for side, answers in curves.sides.items():
        kept = answers.where(answers.confidence >= least)
        right = round(float(kept.right.mean()), 4) if len(kept.right) else None
        found[str(side)] = {"share": round(len(kept.right) / len(answers.right), 4), "right": right}
    return found


def _at(crops: Tensor, side: int) -> Tensor:
    """Reduce crops as those of faces are whose box has `side` pixels."""
    return reduced(crops, min(augment.CROP, round(side * CROP_PER_BOX)))


def _sharpness(crops: Tensor) -> FloatArray:
    margin = augment.CROP * (1 - 1 / CROP_PER_BOX) / 2
    box = np.array([margin, margin, augment.CROP - margin, augment.CROP - margin])
    pixels = (crops[:, 0] * 255).round().to(torch.uint8).numpy()
    return np.array([sharpness_factor(np.repeat(p[..., None], 3, 2), box) for p in pixels])


def _named(low: float, high: float) -> str:
    return f"{low:g}-{high:g}"
