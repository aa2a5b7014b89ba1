"""Temperatures and scalings that are known, and ones that have no bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from streamfer_train.metrics import classification


def drawn(count: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are too sure by ``temperature``."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 5, generator=random) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]
    return logits * temperature, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    logits, labels = drawn(20_000, temperature)
    assert classification.fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_no_other_temperature_is_better() -> None:
    logits, labels = drawn(300, 2.5)
    best = classification.fit_temperature(logits, labels)
    losses = [float(F.cross_entropy(logits.double() / (best * step), labels)) for step in (0.99, 1.0, 1.01)]
    assert losses[1] == min(losses)


def test_perfect_and_hopeless_predictions_stay_within_bounds() -> None:
    labels = np.arange(5)
    assert classification.fit_temperature(np.eye(5), labels) == classification.TEMPERATURES[0]
    assert classification.fit_temperature(-np.eye(5), labels) == classification.TEMPERATURES[1]
