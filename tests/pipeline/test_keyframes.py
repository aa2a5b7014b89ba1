"""Which pictures of a clip are described."""

from __future__ import annotations

import numpy as np
import pytest

from streamfer.pipeline.keyframes import Course, choose, course_of, feature_strengths, unit_strengths


def rising(*levels: float) -> np.ndarray:
    """Action units of a face that shows one expression at these levels."""
    return np.outer(levels, [0.0, 1.0, 0.5]).astype(np.float32)


def chosen(strengths: np.ndarray, count: int) -> list[int]:
    return choose(strengths, course_of(strengths), count)


def test_the_apex_is_the_strongest_picture_and_the_onset_the_last_calm_one_before_it() -> None:
    units = rising(0, 0, 0, 0, 0.1, 0.5, 0.9, 1, 0.9, 0.5, 0, 0, 0)
    strengths = unit_strengths(units)
    assert chosen(strengths, 1) == [7]
    assert chosen(strengths, 2) == [4, 7]
    assert chosen(strengths, 3) == [4, 7, 10]
    assert strengths[0] == 0
    assert course_of(strengths) == Course(4, 7, 10)


def test_an_expression_that_fades_has_no_onset_and_one_that_stays_no_offset() -> None:
    assert chosen(unit_strengths(rising(1, 0.9, 0.8, 0.5, 0.1, 0, 0, 0)), 3) == [0, 4]
    assert chosen(unit_strengths(rising(0, 0, 0, 0.5, 0.9, 1, 1, 1)), 3)[0] == 2
    assert len(chosen(unit_strengths(rising(0, 0, 0, 0.5, 0.9, 1, 1, 1)), 3)) == 2


def test_the_apex_lies_furthest_from_the_calmest_picture_not_at_the_most_activity() -> None:
    # A face that smiles throughout and frowns once: the frown is what happens.
    smile, frown = np.array([1.0, 0.0]), np.array([0.6, 0.9])
    units = np.stack([smile * 0.95, smile, smile, frown, frown, frown, smile, smile]).astype(np.float32)
    assert chosen(unit_strengths(units), 1) == [4]


def test_a_face_that_does_not_move_is_shown_once() -> None:
    assert chosen(unit_strengths(np.full((9, 3), 0.4, np.float32)), 3) == [4]


def test_features_stand_in_for_action_units() -> None:
    features = np.ones((12, 8), np.float32)
    features[7:10] += np.linspace(0, 3, 8, dtype=np.float32)
    strengths = feature_strengths(features)
    assert chosen(strengths, 2) == [6, 8]
    assert feature_strengths(5 * features) == pytest.approx(strengths, abs=1e-6)


def test_one_picture_is_its_own_apex() -> None:
    assert chosen(unit_strengths(rising(0.7)), 3) == [0]
