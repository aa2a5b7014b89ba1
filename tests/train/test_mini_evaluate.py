"""Numbers of the mini model: what they are on predictions whose answer is known."""

from __future__ import annotations

import pytest
import torch

from streamfer_train.mini import evaluate
from streamfer_train.mini.data import CLASSES


def test_recall_averages_over_the_classes_present() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 2]), len(CLASSES)).float()
    scores = evaluate.score(logits, labels)
    assert scores.accuracy == pytest.approx(0.5)
    assert scores.recalls == pytest.approx({"happiness": 2 / 3, "sadness": 0.0})
    assert scores.uar == pytest.approx(1 / 3)


def _sampled(scale: float, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    truth = torch.randn(count, len(CLASSES), generator=rng) * 2
    labels = torch.multinomial(truth.softmax(1), 1, generator=rng)[:, 0]
    return truth * scale, labels


def test_true_probabilities_are_calibrated() -> None:
    assert evaluate.expected_calibration_error(*_sampled(1.0)) < 0.01


def test_overconfidence_is_measured_and_mended() -> None:
    logits, labels = _sampled(3.0)
    assert evaluate.calibration_temperature(logits, labels) == pytest.approx(3.0, rel=0.05)
    report = evaluate.calibrate(logits, labels)
    assert report["ece_before"] > 0.1
    assert report["ece_after"] < 0.02


def test_halves_share_no_row() -> None:
    fit, report = evaluate.halves(101)
    assert sorted([*fit.tolist(), *report.tolist()]) == list(range(101))
