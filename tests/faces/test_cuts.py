"""Scene cuts fire on cuts, not on motion, flashes of light, or black frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from streamfer.faces.cuts import CutDetector


def picture(name: str) -> np.ndarray:
    from skimage import data

    image = np.asarray(getattr(data, name)(), np.uint8)
    return np.asarray(cv2.resize(image, (640, 360), interpolation=cv2.INTER_AREA), np.uint8)


def cuts(frames: list[np.ndarray]) -> list[int]:
    detector = CutDetector()
    return [index for index, frame in enumerate(frames) if detector.step(frame)]


@pytest.mark.parametrize(("first", "second"), [("astronaut", "coffee"), ("rocket", "chelsea"), ("coffee", "rocket")])
def test_a_cut_fires_once(first: str, second: str) -> None:
    assert cuts([picture(first)] * 5 + [picture(second)] * 5) == [5]


def test_a_fast_pan_is_no_cut() -> None:
    wide = np.hstack([picture("coffee"), picture("coffee")[:, ::-1]])
    # A quarter of the picture's width between two samples.
    assert cuts([wide[:, x : x + 640] for x in range(0, 640, 160)]) == []


def test_a_large_moving_thing_is_no_cut() -> None:
    frames = []
    for x in range(0, 440, 110):
        frame = picture("rocket")
        frame[60:300, x : x + 200] = (200, 150, 120)
        frames.append(frame)
    assert cuts(frames) == []


@pytest.mark.parametrize("gain", [0.5, 1.6])
def test_a_change_of_light_is_no_cut(gain: float) -> None:
    lit = np.clip(picture("astronaut") * gain, 0, 255).astype(np.uint8)
    assert cuts([picture("astronaut")] * 4 + [lit] * 4) == []


def test_a_blackout_inside_a_scene_is_no_cut_and_a_cut_through_black_is_one() -> None:
    black = np.zeros((360, 640, 3), np.uint8)
    assert cuts([picture("coffee")] * 3 + [black] * 3 + [picture("coffee")] * 3) == []
    assert cuts([picture("coffee")] * 3 + [black] * 3 + [picture("rocket")] * 3) == [6]


def test_noise_is_no_cut() -> None:
    rng = np.random.default_rng(0)
    frames = [np.clip(picture("chelsea") + rng.normal(0, 25, (360, 640, 3)), 0, 255).astype(np.uint8) for _ in range(6)]
    assert cuts(frames) == []


def test_the_size_may_change_and_may_be_nothing() -> None:
    small = np.asarray(cv2.resize(picture("coffee"), (64, 36), interpolation=cv2.INTER_AREA), np.uint8)
    assert cuts([picture("coffee"), small, np.zeros((0, 0, 3), np.uint8), picture("coffee")]) == []
