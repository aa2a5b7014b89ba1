"""Crop profiles: what each family of models sees of a face."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from streamfer.faces import crop_faces
from streamfer.geometry import EXP_BLIP_CROP, CropProfile, loose_crop, squashed_crop

PROFILE = TypeAdapter(CropProfile)
PROFILES = (squashed_crop(224), loose_crop(128), EXP_BLIP_CROP)


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_survive_their_json_form(profile: CropProfile) -> None:
    assert PROFILE.validate_json(PROFILE.dump_json(profile)) == profile


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_cuts_faces_with_and_without_landmarks(profile: CropProfile) -> None:
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    boxes = np.array([[40, 20, 100, 100], [-10, 60, 30, 130]], np.float32)
    points = np.full((2, 5, 2), np.nan, np.float32)
    points[0] = [[55, 48], [85, 48], [70, 65], [58, 80], [82, 80]]
    assert crop_faces(image, boxes, points, profile).shape == (2, profile.size, profile.size, 3)


def test_a_margin_shows_more_around_the_face() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[60:140, 60:140] = 255
    box, none = np.array([[60, 60, 140, 140]], np.float32), np.full((1, 5, 2), np.nan, np.float32)
    tight, wide = (crop_faces(image, box, none, squashed_crop(64, margin)).mean() / 255 for margin in (0.0, 0.25))
    assert tight == pytest.approx(1, abs=0.01)
    assert wide == pytest.approx(1 / 1.5**2, abs=0.03)


def test_the_loose_template_scales_with_the_crop() -> None:
    small, large = np.array(loose_crop(64).landmarks), np.array(loose_crop(128).landmarks)
    assert np.allclose(2 * small, large)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "round", "size": 64},
        {"kind": "box", "size": 4},
        {"kind": "similarity", "size": 64, "landmarks": [[1, 2]]},
    ],
)
def test_a_profile_that_cannot_be_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="CropProfile"):
        PROFILE.validate_python(values)
