"""What a blur covers: what is found, the holes between, what moves where a face was lost, nothing after a cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from streamfer.faces import load_detector
from streamfer.faces.coverage import COVERED_SCORE, LIKELY_SCORE, Cover, Moment, Watch, covers
from streamfer.faces.detections import overlap

FPS = 25
FACE = (0.4, 0.3, 0.5, 0.45)
NO_BOXES = np.zeros((0, 4), np.float32)


def moment(
    number: int, score: float = 0.0, *, scene: int = 1, moved: bool = False, box: Sequence[float] = FACE
) -> Moment:
    """A frame that shows one box, or none where the score is 0; its left half moves or nothing does."""
    cells = np.zeros((36, 64), bool)
    cells[:, :36] = moved
    boxes = np.array([box], np.float32) if score else NO_BOXES
    return Moment(number / FPS, scene, boxes, np.full(len(boxes), score, np.float32), np.packbits(cells))


def hidden(cover: Cover, box: Sequence[float] = FACE) -> float:
    """Share of a box that one of a frame's boxes covers."""
    boxes = np.array(cover.boxes, np.float32).reshape(-1, 4)
    return float(overlap(np.array([box], np.float32), boxes).max(initial=0))


def test_a_face_is_covered_from_its_first_frame_to_its_last_however_few_they_are() -> None:
    found = covers([moment(0, scene=1), *(moment(number, 0.9, scene=2) for number in (1, 2)), moment(3, scene=3)])
    assert [hidden(cover) for cover in found] == [0, 1, 1, 0]
    assert not any(cover.doubtful for cover in found)


@pytest.mark.parametrize(("frames", "doubtful"), [(8, False), (30, True)])
def test_a_hole_between_two_sightings_is_covered(frames: int, doubtful: bool) -> None:
    there = (0.46, 0.3, 0.56, 0.45)
    film = [moment(0, 0.9), *(moment(number, moved=True) for number in range(1, frames))]
    found = covers([*film, moment(frames, 0.9, box=there)])
    middle = (0.43, 0.3, 0.53, 0.45)
    assert hidden(found[frames // 2], middle) == 1
    assert {cover.doubtful for cover in found[1:-1]} == {doubtful}


def test_motion_where_a_face_was_lost_stays_covered_until_it_is_sure() -> None:
    film = [*(moment(number, 0.9) for number in range(5)), *(moment(number, moved=True) for number in range(5, 55))]
    found = covers([*film, *(moment(number) for number in range(55, 120))])
    beside = (0.3, 0.3, 0.4, 0.45)
    assert all(hidden(cover, beside) == 1 and cover.doubtful for cover in found[5:55])
    # A second after the last motion it is sure.
    assert not any(cover.boxes or cover.doubtful for cover in found[85:])


def test_a_face_is_covered_before_it_is_first_found() -> None:
    film = [moment(number, moved=number > 40) for number in range(80)]
    found = covers([*film, *(moment(number, 0.9, moved=True) for number in range(80, 90))])
    beside = (0.3, 0.3, 0.4, 0.45)
    assert all(hidden(cover) == 1 and cover.doubtful for cover in found[64:80])
    assert all(hidden(cover, beside) == 1 for cover in found[42:80]), "as long as somebody moves there"
    assert not any(cover.boxes or cover.doubtful for cover in found[:10])


def test_a_face_that_has_not_moved_stays_covered_however_long_it_is_missed() -> None:
    found = covers([moment(0, 0.9), *(moment(number) for number in range(1, 400))])
    assert all(hidden(cover) == 1 for cover in found)


def test_a_face_of_which_a_part_is_found_stays_covered_for_a_while() -> None:
    def at(number: int, top: float) -> tuple[float, float, float, float]:
        return (0.4 + number / 500, top, 0.5 + number / 500, 0.45)

    film = [moment(number, 0.9, box=at(number, 0.3 if number < 10 else 0.38)) for number in range(60)]
    found = covers(film)
    assert all(hidden(found[number], at(number, 0.3)) > 0.999 for number in range(28))
    assert not any(hidden(found[number], at(number, 0.3)) > 0.6 for number in range(30, 60))
    assert not any(cover.doubtful for cover in found)


def test_nothing_is_covered_beyond_a_cut() -> None:
    film = [moment(number, 0.9, scene=1) for number in range(5)]
    found = covers([*film, *(moment(number, scene=2, moved=True) for number in range(5, 30))])
    assert not any(cover.boxes or cover.doubtful for cover in found[5:])


def test_what_looks_a_little_like_a_face_is_not_covered_but_said() -> None:
    (cover,) = covers([moment(0, (LIKELY_SCORE + COVERED_SCORE) / 2)])
    assert (cover.boxes, cover.doubtful) == ([], True)
    assert cover.pixels(640, 360, strict=False).shape == (0, 4)
    assert cover.pixels(640, 360, strict=True).tolist() == [[0, 0, 640, 360]]


def test_a_flicker_leaves_no_doubt() -> None:
    found = covers([moment(0), moment(1, 0.3), *(moment(number, moved=True) for number in range(2, 30))])
    assert not any(cover.doubtful for cover in found)
    assert hidden(found[20]) == 0


def film() -> list[NDArray[np.uint8]]:
    """Two seconds of a face that passes; for half a second of it a block of noise hides it from the detector."""
    picture = np.asarray(data.astronaut(), np.uint8)[:300, 60:460]
    rng = np.random.default_rng(1)
    frames = []
    for number in range(50):
        frame = np.roll(picture, number, axis=1).copy()
        if 20 <= number < 32:
            left = 118 + number
            frame[70:150, left : left + 92] = rng.integers(0, 255, (80, 92, 3))
        frames.append(frame)
    return frames


def test_a_face_that_the_detector_loses_is_covered_in_a_film() -> None:
    pictures = film()
    detector = load_detector("builtin", threshold=LIKELY_SCORE)
    watch = Watch(detector)
    for number, picture in enumerate(pictures):
        watch.look(picture, 0, number / FPS)
    found = watch.covers()
    lost = [number for number, faces in enumerate(detector.detect(pictures)) if not (faces.scores > 0.7).any()]
    assert len(set(lost) & set(range(20, 32))) > 6
    for number, cover in enumerate(found):
        # The face lies at columns 118 to 210 of the first frame.
        face = ((118 + number) / 400, 65 / 300, (210 + number) / 400, 177 / 300)
        grown = Cover([np.concatenate([b[:2] - (b[2:] - b[:2]) / 4, b[2:] + (b[2:] - b[:2]) / 4]) for b in cover.boxes])
        assert hidden(grown, face) > 0.9, number
