"""What an epoch of photographs is: rows drawn by class, augmentation that relaxes."""

from __future__ import annotations

from dataclasses import replace

import mini_corpus
import pytest
import torch
from torch.nn import functional as F

from streamfer_builtin.mini import augment, sampling
from streamfer_builtin.mini.data import CLASSES, Pictures
from streamfer_builtin.mini.recipe import JointPart


def _targets(*counts: int) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return F.one_hot(labels, len(CLASSES)).float()


def _share(targets: torch.Tensor, weights: torch.Tensor, label: int) -> float:
    return float(weights[targets.argmax(1) == label].sum() / weights.sum())


def test_power_zero_keeps_the_natural_frequencies() -> None:
    targets = _targets(90, 10)
    assert _share(targets, sampling.sampling_weights(targets, power=0.0), 1) == pytest.approx(0.1)


def test_power_one_makes_classes_equal() -> None:
    targets = _targets(90, 10)
    weights = sampling.sampling_weights(targets, power=1.0)
    assert _share(targets, weights, 0) == pytest.approx(_share(targets, weights, 1))


def test_square_root_lies_between_and_mean_weight_is_one() -> None:
    targets = _targets(90, 10)
    weights = sampling.sampling_weights(targets, power=0.5)
    assert _share(targets, weights, 1) == pytest.approx(10**0.5 / (10**0.5 + 90**0.5))
    assert float(weights.mean()) == pytest.approx(1.0)


def test_a_cap_bounds_what_a_large_class_contributes() -> None:
    targets = _targets(900, 100)
    assert _share(targets, sampling.sampling_weights(targets, power=0.0, cap=100), 0) == pytest.approx(0.5)


def test_a_picture_of_two_classes_weighs_between_them() -> None:
    targets = _targets(90, 10)
    targets[0] = (targets[0] + targets[-1]) / 2
    weights = sampling.sampling_weights(targets, power=1.0)
    assert float(weights[0]) == pytest.approx(float(weights[1] + weights[-1]) / 2)


def test_a_draw_depends_on_seed_and_epoch_alone() -> None:
    def rows(epoch: int) -> list[list[int]]:
        part = JointPart(seed=5)
        return [index.tolist() for index in sampling.draw(mini_corpus.corpus().train, part, epoch, 24)]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


def test_a_draw_favours_rare_classes() -> None:
    labels = torch.tensor([0] * 900 + [5] * 100)
    nobody = torch.full((1000, len(CLASSES)), torch.nan)
    fer: Pictures = replace(mini_corpus.corpus().val, labels=labels, votes=nobody)
    index, _ = sampling.draw((fer, fer), JointPart(faces_share=0.0, power=0.5), 0, 1000)
    assert len(index) == pytest.approx(1000, abs=40)
    assert float((labels[index] == 5).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_augmentation_relaxes_towards_the_end_but_pictures_stay_bad() -> None:
    assert sampling.relaxation(0.1) == 1.0
    assert sampling.relaxation(0.525) == pytest.approx(0.65)
    assert sampling.relaxation(1.0) == pytest.approx(0.3)
    full, end = augment.Strength(), augment.Strength().relaxed(0.3)
    assert end.gamma == pytest.approx(0.3 * full.gamma)
    assert end.soften == pytest.approx(0.5 * full.soften)
    assert augment.Strength().relaxed(0.0) == augment.Strength(
        scale=(1.0, 1.0), aspect=0, rotation=0, shift=0, gamma=0, contrast=0, brightness=0,
        tilt=0, soften=0, blur=0, dark=0, jpeg=0, noise=0, cutout=0,
    )  # fmt: skip
