"""Scores of classifiers against scikit-learn, by hand, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from streamfer.errors import ConfigError
from streamfer_train.metrics import classification

CLASSES = ("happiness", "sadness", "neutral", "anger")


def logits_for(predictions: list[int], margin: float = 3.0) -> torch.Tensor:
    return torch.eye(len(CLASSES))[predictions] * margin


def drawn(count: int = 500, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, len(CLASSES), generator=random) * 2
    labels = torch.multinomial((logits / 1.5).softmax(1), 1, generator=random)[:, 0]
    return logits, labels


def test_numbers_agree_with_scikit_learn() -> None:
    logits, labels = drawn()
    found = classification.report(logits, labels, CLASSES)
    probabilities, predicted = logits.double().softmax(1).numpy(), logits.argmax(1).numpy()
    assert found.war == pytest.approx(sk.accuracy_score(labels, predicted))
    assert found.uar == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert found.nll == pytest.approx(sk.log_loss(labels, probabilities))
    assert np.array_equal(found.confusion_CC, sk.confusion_matrix(labels, predicted))
    assert found.brier == pytest.approx(((probabilities - np.eye(4)[labels]) ** 2).sum(1).mean())
    assert list(found.recalls.values()) == pytest.approx(sk.recall_score(labels, predicted, average=None))


def test_logits_of_any_type_and_logarithms_of_probabilities_score_alike() -> None:
    logits, labels = drawn()
    wanted = classification.report(logits, labels, CLASSES)
    probabilities = logits.double().softmax(1).numpy()
    same = classification.report(np.log(probabilities), labels.numpy(), CLASSES)
    assert same.numbers() == pytest.approx(wanted.numbers())
    rough = classification.report(logits.bfloat16(), labels, CLASSES)
    assert rough.nll == pytest.approx(wanted.nll, abs=0.02)


def test_both_conventions_of_uar_at_absent_classes() -> None:
    # Anger is in neither list: both leave it out.
    found = classification.report(logits_for([0, 1, 2, 2]), np.array([0, 1, 2, 1]), CLASSES)
    assert found.uar == found.uar_authors == pytest.approx((1 + 0.5 + 1) / 3)
    assert math.isnan(found.recalls["anger"])
    # Anger is predicted but no target: the authors divide 0 by 0, ours is over the targets' classes.
    found = classification.report(logits_for([0, 3, 2]), np.array([0, 1, 2]), CLASSES)
    assert found.uar == pytest.approx(2 / 3)
    assert math.isnan(found.uar_authors)
    assert found.to_dict()["uar_authors"] is None
    # Anger is a target that is never predicted: it counts with 0 in both.
    found = classification.report(logits_for([0, 1, 1]), np.array([0, 1, 3]), CLASSES)
    assert found.uar == found.uar_authors == pytest.approx(2 / 3)


def test_uar_of_the_authors_is_what_scikit_learn_gives_them() -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        labels, predicted = random.integers(0, 3, 12), random.integers(0, 3, 12)
        table = sk.confusion_matrix(labels, predicted).astype(float)
        with np.errstate(invalid="ignore"):
            wanted = float((table.diagonal() / table.sum(axis=1)).mean())
        ours = classification.uar_of_authors(classification.confusion(predicted, labels, 4))
        assert ours == pytest.approx(wanted, nan_ok=True)


def test_calibration_error_by_hand() -> None:
    # Two bins: (0.8, 0.8, 0.8, 0.8) with three right, and (0.45, 0.45) with none right.
    confidence = np.array([0.8, 0.45, 0.8, 0.8, 0.45, 0.8])
    hit = np.array([True, False, True, True, False, False])
    wanted = 4 / 6 * 0.05 + 2 / 6 * 0.45
    assert classification.calibration_error(confidence, hit, bins=2) == pytest.approx(wanted)
    # A bin includes its upper end: 0.5 lies with 0.45.
    edge = classification.calibration_bins(np.array([0.45, 0.5]), np.array([True, False]), 2)
    assert [(b.confidence, b.accuracy, b.share) for b in edge] == [pytest.approx((0.475, 0.5, 1.0))]


def test_risk_and_coverage_by_hand() -> None:
    curve = classification.risk_coverage(np.array([0.9, 0.6, 0.8, 0.7]), np.array([True, False, False, True]))
    assert curve.risk_K.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert [curve.risk_at(c) for c in (0.25, 0.3, 1.0)] == pytest.approx([0, 1 / 2, 1 / 2])
    # Without any information in the confidence the area is the error rate.
    flat = classification.risk_coverage(np.full(4, 0.5), np.array([True, False, False, True]))
    assert flat.area == pytest.approx(0.5)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_order_of_clips_does_not_matter_even_with_ties(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(-2, 3, (count, 3)).astype(float)
    labels = random.integers(0, 3, count)
    order = random.permutation(count)
    one = classification.report(logits, labels, ("a", "b", "c")).numbers()
    other = classification.report(logits[order], labels[order], ("a", "b", "c")).numbers()
    assert one == pytest.approx(other, nan_ok=True)


def test_perfect_predictions() -> None:
    found = classification.report(logits_for([0, 1, 2, 3], margin=200), np.arange(4), CLASSES)
    zeros = [found.ece, found.nll, found.brier, found.aurc]
    assert (found.war, found.uar) == (1, 1)
    assert zeros == pytest.approx([0] * 4, abs=1e-12)


def test_one_sure_mistake_does_not_make_the_likelihood_infinite() -> None:
    found = classification.report(logits_for([0, 1], margin=5000), np.array([0, 2]), CLASSES)
    assert found.nll == pytest.approx(-math.log(1e-12) / 2)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 4)), np.zeros(0), "expected"),
        (np.zeros((2, 4)), np.array([0, 4]), "label 4 of row 1 is outside 0..3"),
        (np.zeros((2, 4)), np.array([0, -1]), "label -1 of row 1"),
        (np.zeros((2, 4)), np.array([0]), "expected \\(2,\\)"),
        (np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]]), np.array([0, 1]), "first is row 1"),
        (np.zeros((2, 3)), np.array([0, 1]), "4 class names for scores of 3"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        classification.report(logits, labels, CLASSES)
