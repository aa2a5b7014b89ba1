"""Crop quality falls with each fault alone; blurred faces keep nothing; track names repeat only by salt."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfer.faces import TrackNames, blur_faces, measure_quality
from streamfer.faces.alignment import landmarks_within
from streamfer.faces.privacy import BLOCKS
from streamfer.faces.quality import inside_factor, pose_factor, size_factor

BOX = np.array([[178, 65, 270, 177]], np.float32)


def astronaut() -> np.ndarray:
    from skimage import data

    return np.asarray(data.astronaut(), np.uint8)


def quality(image: np.ndarray, box: np.ndarray = BOX, points: np.ndarray | None = None) -> float:
    return float(measure_quality(image, box, landmarks_within(box) if points is None else points).value[0])


def test_a_sharp_frontal_face_is_good() -> None:
    assert quality(astronaut()) > 0.7


def test_more_blur_is_worse() -> None:
    values = [quality(cv2.GaussianBlur(astronaut(), (0, 0), s) if s else astronaut()) for s in (0, 1, 2, 4, 8)]
    assert all(a > b for a, b in itertools.pairwise(values)), values
    assert values[-1] < 0.2


def test_dim_light_is_not_taken_for_blur() -> None:
    dim = (astronaut() * 0.4).astype(np.uint8)
    assert quality(dim) > 0.85 * quality(astronaut())


def test_smaller_is_worse() -> None:
    values = []
    for scale in (1.0, 0.5, 0.25, 0.12):
        small = cv2.resize(astronaut(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        values.append(quality(np.asarray(small, np.uint8), BOX * scale))
    assert all(a > b for a, b in itertools.pairwise(values)), values


@given(st.floats(0, 200), st.floats(0, 200))
def test_size_and_truncation_never_rise_the_wrong_way(a: float, b: float) -> None:
    small, large = sorted((a, b))
    assert size_factor(np.array([[0, 0, small, small]]))[0] <= size_factor(np.array([[0, 0, large, large]]))[0]
    # The further a box hangs out to the left, the less it is worth.
    near, far = (inside_factor(np.array([[-out, 10, 200 - out, 110]]), 400, 300)[0] for out in (small, large))
    assert far <= near + 1e-12


def test_turned_heads_are_worse_in_every_direction() -> None:
    frontal = landmarks_within(BOX)
    for direction in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        values = []
        for shift in (0, 8, 16, 30):
            turned = frontal.copy()
            turned[0, 2] += np.array(direction) * shift
            values.append(float(pose_factor(turned)[0]))
        assert all(a > b for a, b in itertools.pairwise(values)), (direction, values)


def test_tilting_the_head_costs_nothing() -> None:
    frontal = landmarks_within(BOX)[0].astype(np.float64)
    cos, sin = np.cos(0.6), np.sin(0.6)
    tilted = (frontal - frontal.mean(0)) @ np.array([[cos, sin], [-sin, cos]]) + frontal.mean(0)
    np.testing.assert_allclose(pose_factor(tilted[None]), pose_factor(frontal[None]), rtol=1e-6)


def test_quality_without_landmarks_outside_or_without_faces() -> None:
    image = astronaut()
    assert 0 < quality(image, BOX, np.full((1, 5, 2), np.nan)) < quality(image)
    assert quality(image, np.array([[600, 600, 700, 700]], np.float32)) == 0.0
    assert quality(np.full_like(image, 90)) == 0.0
    assert measure_quality(image, np.zeros((0, 4)), np.zeros((0, 5, 2))).value.shape == (0,)


class TestBlur:
    def test_only_the_face_changes_and_the_original_stays(self) -> None:
        image = astronaut()
        before = image.copy()
        blurred = blur_faces(image, BOX)
        np.testing.assert_array_equal(image, before)
        changed = np.abs(blurred.astype(int) - image).sum(axis=2) > 0
        rows, columns = np.nonzero(changed)
        grown = np.array([178 - 23, 65 - 28, 270 + 23, 177 + 28])
        assert columns.min() >= grown[0] - 1
        assert rows.min() >= grown[1] - 1
        assert columns.max() <= grown[2] + 1
        assert rows.max() <= grown[3] + 1
        assert changed[65:177, 178:270].mean() > 0.95

    def test_what_is_left_depends_on_block_means_alone(self) -> None:
        """Two pictures whose blocks have equal means blur to the same: the detail is gone, not hidden."""
        rng = np.random.default_rng(2)
        side = 16 * BLOCKS
        means = rng.integers(60, 180, (BLOCKS, BLOCKS, 3))
        flat = means.repeat(16, axis=0).repeat(16, axis=1)
        stripes = np.where(np.indices((side, side)).sum(axis=0)[:, :, None] % 2, 40, -40)
        # The box is grown by a quarter on each side: this one grows to the whole picture.
        inner = np.array([[side / 6, side / 6, side * 5 / 6, side * 5 / 6]])
        a = blur_faces(flat.astype(np.uint8), inner)
        b = blur_faces((flat + stripes).astype(np.uint8), inner)
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1

    @pytest.mark.parametrize(
        "box", [[-50, -50, 30, 30], [500, 500, 900, 900], [600, 600, 700, 700], [10, 10, 12, 12], [0, 0, 512, 512]]
    )
    def test_boxes_at_and_beyond_the_edge(self, box: list[int]) -> None:
        blurred = blur_faces(astronaut(), np.array([box]))
        assert blurred.shape == (512, 512, 3)
        assert blurred.dtype == np.uint8

    def test_the_detector_no_longer_knows_the_face(self) -> None:
        from streamfer.faces import load_detector

        detector = load_detector("lbp")
        assert len(detector.detect([astronaut()])[0]) == 1
        assert len(detector.detect([blur_faces(astronaut(), BOX)])[0]) == 0


class TestTrackNames:
    def test_a_fixed_salt_repeats_and_another_one_does_not(self) -> None:
        first, again, other = TrackNames("a"), TrackNames("a"), TrackNames("b")
        assert first.name("cam", 0, 1) == again.name("cam", 0, 1)
        assert first.name("cam", 0, 1) != other.name("cam", 0, 1)

    def test_without_a_salt_every_run_differs(self) -> None:
        assert TrackNames().name("cam", 0, 1) != TrackNames().name("cam", 0, 1)

    def test_names_are_short_distinct_and_plain(self) -> None:
        names = TrackNames("salt")
        found = {names.name(s, e, t) for s in ("a", "b", "a:1") for e in range(5) for t in range(200)}
        assert len(found) == 3 * 5 * 200
        assert all(len(name) == 8 and name.isalnum() and name == name.lower() for name in found)

    def test_parts_do_not_run_into_each_other(self) -> None:
        names = TrackNames("salt")
        assert names.name("a:1", 2, 3) != names.name("a", 1, 23)
        assert names.name("a", 1, 23) != names.name("a", 12, 3)
