"""Linear probes find what is linear, nothing in noise, and ignore what nobody labelled."""

from __future__ import annotations

import pytest
import torch

from streamfer.errors import ConfigError
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.exp_blip.probing import unit_targets
from streamfer_train.metrics.probes import UNKNOWN, Probe

UNITS = (4, 12)


def _faces(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of which two directions are the units."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 8, generator=draw)
    return features, (features[:, :2] + 0.3 > 0).float()


def test_units_that_are_linear_are_read() -> None:
    (train, targets), (test, wanted) = _faces(400, 0), _faces(200, 1)
    with torch.inference_mode():
        frozen = train * 1.0
    result = Probe().units(frozen, targets, test, wanted, UNITS)
    assert result.keys() == {4, 12}
    assert min(result.values()) > 0.95
    assert result == Probe().units(frozen, targets, test, wanted, UNITS)


def test_noise_is_worth_little() -> None:
    (train, _), (test, wanted) = _faces(400, 0), _faces(200, 1)
    shuffled = (torch.rand(400, 2, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    assert sum(Probe().units(train, shuffled, test, wanted, UNITS).values()) / 2 < 0.8


def test_unknown_labels_count_nowhere() -> None:
    (train, targets), (test, wanted) = _faces(400, 0), _faces(200, 1)
    targets[::2, 0] = UNKNOWN
    wanted[:, 1] = UNKNOWN
    result = Probe().units(train, targets, test, wanted, UNITS)
    assert result.keys() == {4}
    assert min(result.values()) > 0.95


def test_targets_from_labels() -> None:
    faces = [FaceLabels(frozenset({12}), (), {}, frozenset({12})), FaceLabels.of([4]), FaceLabels.of(None, "happy")]
    assert unit_targets(faces, UNITS).tolist() == [[UNKNOWN, 1], [1, 0], [UNKNOWN, UNKNOWN]]


def test_emotions_are_told_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=draw)
    features = torch.randn(300, 6, generator=draw) + 4 * torch.nn.functional.one_hot(labels, 6)
    accuracy, mean_recall = Probe(epochs=50).emotions(features[:200], labels[:200], features[200:], labels[200:])
    assert accuracy > 0.95
    assert mean_recall > 0.95


def test_features_that_are_no_numbers_are_named() -> None:
    features, targets = _faces(10, 0)
    with pytest.raises(ConfigError, match="a feature is not finite"):
        Probe().units(features * torch.nan, targets, features, targets, UNITS)
