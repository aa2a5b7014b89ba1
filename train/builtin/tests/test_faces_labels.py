"""Labels follow the picture through every transform that a view is made with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfer_builtin.faces.labels import Labels, overlaps, similarity

POINTS = np.array([[40, 50], [80, 48], [60, 70], [45, 90], [76, 91]], np.float32)
BOX = np.array([30, 20, 92, 104], np.float32)


def one_face() -> Labels:
    return Labels.single(BOX, POINTS)


@given(
    degrees=st.floats(-180, 180),
    scale=st.floats(0.1, 4),
    x=st.floats(0, 300),
    y=st.floats(0, 300),
    mirror=st.booleans(),
)
def test_landmarks_stay_inside_the_box_and_keep_their_order(
    degrees: float, scale: float, x: float, y: float, mirror: bool
) -> None:
    matrix = similarity((61, 62), (x, y), scale, degrees, mirror=mirror)
    moved = one_face().transformed(matrix)
    assert np.allclose((moved.boxes[0, :2] + moved.boxes[0, 2:]) / 2, [x, y], atol=1e-2)
    # The landmarks lie in the ellipse that the box holds, so they must stay in the box whatever the turn.
    assert (moved.landmarks[0] >= moved.boxes[0, :2] - 1e-2).all()
    assert (moved.landmarks[0] <= moved.boxes[0, 2:] + 1e-2).all()
    gap = np.linalg.norm(moved.landmarks[0, 0] - moved.landmarks[0, 1])
    assert gap == pytest.approx(scale * np.linalg.norm(POINTS[0] - POINTS[1]), rel=1e-3)


@given(x=st.floats(20, 200), y=st.floats(20, 200), scale=st.floats(0.2, 2))
def test_mirroring_swaps_left_and_right_names(x: float, y: float, scale: float) -> None:
    moved = one_face().transformed(similarity((61, 62), (x, y), scale, 0.0, mirror=True))
    eyes_and_mouth = moved.landmarks[0]
    assert eyes_and_mouth[0, 0] < eyes_and_mouth[1, 0]
    assert eyes_and_mouth[3, 0] < eyes_and_mouth[4, 0]


@given(scale=st.floats(0.2, 3), x=st.floats(-50, 50), y=st.floats(-50, 50))
def test_without_a_turn_the_box_is_moved_exactly(scale: float, x: float, y: float) -> None:
    matrix = np.array([[scale, 0, x], [0, scale, y]], np.float32)
    assert np.allclose(one_face().transformed(matrix).boxes[0], BOX * scale + [x, y, x, y], atol=1e-2)


def test_framing_clips_drops_and_ignores() -> None:
    boxes = np.array([[10, 10, 50, 50], [-30, 10, 10, 50], [-60, 0, -5, 40], [20, 20, 26, 26]], np.float32)
    labels = Labels(boxes, np.zeros((4, 5, 2), np.float32), np.zeros(4, bool), np.ones(4, bool))
    seen = labels.framed(100, 100)
    assert seen.boxes.tolist() == [[10, 10, 50, 50], [0, 10, 10, 50], [20, 20, 26, 26]]
    assert seen.ignored.tolist() == [False, True, True]


def test_overlap_of_known_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    assert overlaps(boxes[:1], boxes)[0].tolist() == pytest.approx([1.0, 1 / 3, 0.0])
