"""Action units of the mini model: intensities from blendshape scores, and a loss that leaves unknown ones out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamfer_builtin.mini import units
from streamfer_builtin.render.actions import ACTION_UNITS


def _scores(**given: float) -> dict[str, np.ndarray]:
    names = {shape for shapes in units.BLENDSHAPES.values() for shape in shapes}
    columns = [name.format(side) for name in names for side in ("Left", "Right")]
    return {name: np.full(2, given.get(name, 0.0), np.float32) for name in columns}


def _read(unit: str, **given: float) -> float:
    return float(units.units_of(_scores(**given))[0, ACTION_UNITS.index(unit)])


def test_sides_are_averaged_and_scaled_to_strong_examples() -> None:
    assert _read("AU12", mouthSmileLeft=0.95, mouthSmileRight=0.95) == pytest.approx(1)
    assert _read("AU12", mouthSmileLeft=0.95) == pytest.approx(0.5)
    assert _read("AU05", eyeWideLeft=0.9, eyeWideRight=0.9) == 1


def test_parted_lips_follow_the_jaw_or_the_lips_whichever_is_stronger() -> None:
    assert _read("AU25", jawOpen=0.35) == pytest.approx(1)
    assert _read("AU26", jawOpen=0.35) == pytest.approx(0.35 / 0.75)
    assert _read("AU25", mouthLowerDownLeft=0.9, mouthLowerDownRight=0.9, jawOpen=0.1) == pytest.approx(1)


def test_units_without_a_teacher_and_faces_without_landmarks_are_unknown() -> None:
    intensities = units.units_of({name: np.array([np.nan, 0.2]) for name in _scores()})
    known = {name for name, known in zip(ACTION_UNITS, ~np.isnan(intensities[1]), strict=True) if known}
    assert known == set(ACTION_UNITS) - {"AU06", "AU09", "AU23"}
    assert np.isnan(intensities[0]).all()


def test_the_loss_ignores_what_nobody_knows() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    truth = torch.tensor([[1.0, torch.nan], [torch.nan, 0.5]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.5]))
    assert float(units.unit_loss(logits, truth)) == pytest.approx(float(expected))
    assert float(units.unit_loss(logits, torch.full((2, 2), torch.nan))) == 0
