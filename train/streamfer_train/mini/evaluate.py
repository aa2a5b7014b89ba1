"""Numbers of the mini model: accuracy, recalls, calibration, speed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamfer_train.mini.data import CLASSES


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy, unweighted average recall and the recall of every class present, all in 0-1."""

    accuracy: float
    uar: float
    recalls: dict[str, float]
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, rounded to four digits."""
        recalls = {name: round(value, 4) for name, value in self.recalls.items()}
        return {
            "accuracy": round(self.accuracy, 4),
            "uar": round(self.uar, 4),
            "recalls": recalls,
            "count": self.count,
        }


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Compare logits (N, C) with labels (N,)."""
    hit = (logits.argmax(1) == labels).double()
    recalls = {CLASSES[int(c)]: float(hit[labels == c].mean()) for c in torch.unique(labels)}
    return Scores(float(hit.mean()), sum(recalls.values()) / len(recalls), recalls, len(labels))


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over equally wide confidence bins, weighted by their share.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    confidence, predicted = logits.softmax(1).max(1)
    hit = (predicted == labels).double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    gaps = [
        (place == b).double().mean() * (hit[place == b].mean() - confidence[place == b].double().mean()).abs()
        for b in torch.unique(place)
    ]
    return float(torch.stack(gaps).sum())


def calibration_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the divisor of the logits with the least negative log-likelihood, between 0.1 and 10."""
    candidates = torch.logspace(-1, 1, 401)
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in candidates])
    return float(candidates[losses.argmin()])


def halves(count: int) -> tuple[Tensor, Tensor]:
    """Split rows at random into one half to calibrate on and one to report on; always the same split."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[: count // 2], order[count // 2 :]


def calibrate(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Fit the temperature on one half; report the calibration error of the other before and after."""
    fit, report = halves(len(labels))
    temperature = calibration_temperature(logits[fit], labels[fit])
    before = expected_calibration_error(logits[report], labels[report])
    after = expected_calibration_error(logits[report] / temperature, labels[report])
    return {"temperature": round(temperature, 4), "ece_before": round(before, 4), "ece_after": round(after, 4)}


@torch.no_grad()
def crops_per_second(encoder: nn.Module, *, bfloat16: bool, size: int = 64, batch: int = 64) -> float:
    """Measure the image encoder alone, on the threads that torch has now."""
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        encoder(images)
        began, rounds = time.perf_counter(), 0
        while time.perf_counter() - began < 2:
            encoder(images)
            rounds += 1
    return rounds * batch / (time.perf_counter() - began)
