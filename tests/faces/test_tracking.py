"""Tracks: one number a person, nothing lost at the start, ends at cuts, returns after absence, bounded state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import pytest
from fakes.faces import FakeDetector

from streamfer.errors import ConfigError
from streamfer.faces import Detections, FaceTracker, TrackedFrame, settle
from streamfer.faces.alignment import landmarks_within

FPS = 8.0
#: Clothes and skin of generated people: colours far enough apart to tell them by.
PEOPLE = {"red": (200, 60, 50), "blue": (50, 80, 210), "green": (60, 170, 70)}
SKIN = {"red": (205, 160, 135), "blue": (150, 105, 80), "green": (230, 200, 185)}


def person(name: str) -> np.ndarray:
    """Return the picture (150, 100, 3) of a person whose face is the box 20..80 by 20..90."""
    rng = np.random.default_rng(sorted(PEOPLE).index(name))
    picture = np.full((150, 100, 3), PEOPLE[name], np.uint8)
    picture[15:95, 15:85] = SKIN[name]
    texture = cv2.resize(rng.integers(-60, 60, (9, 9), np.int16).astype(np.float32), (60, 70))
    picture[20:90, 20:80] = np.clip(picture[20:90, 20:80] + texture[:, :, None], 0, 255).astype(np.uint8)
    return picture


def scene(places: dict[str, tuple[float, float]], background: int = 90) -> np.ndarray:
    """Return a frame (240, 420, 3) with people whose faces are centred at the places."""
    grid = (np.indices((240, 420)) // 30).sum(axis=0) % 2 * 40 + background
    image = np.repeat(grid[:, :, None], 3, axis=2).astype(np.uint8)
    for name, (x, y) in places.items():
        left, top = round(x) - 50, round(y) - 55
        x1, y1, x2, y2 = max(0, left), max(0, top), min(420, left + 100), min(240, top + 150)
        if x2 > x1 and y2 > y1:
            image[y1:y2, x1:x2] = person(name)[y1 - top : y2 - top, x1 - left : x2 - left]
    return image


def faces(places: Iterable[tuple[float, float]], score: float = 0.9) -> Detections:
    """Return detections of faces of 60 x 70 pixels centred at the places."""
    boxes = np.array([[x - 30, y - 35, x + 30, y + 35] for x, y in places], np.float32).reshape(-1, 4)
    return Detections.ranked(boxes, np.full(len(boxes), score), landmarks_within(boxes), 64)


def follow(
    frames: Sequence[tuple[np.ndarray, Detections | None]], **arguments: object
) -> tuple[list[TrackedFrame], list[dict[int, float]], FaceTracker]:
    """Return the tracker's answers, and per frame the x of every tracked face, late ones included."""
    tracker = FaceTracker(FPS, **arguments)  # type: ignore[arg-type]
    answers = [tracker.update(image, found) for image, found in frames]
    seen = [{face.track: float(face.box[[0, 2]].mean()) for face in faces} for faces in settle(answers)]
    return answers, seen, tracker


def confirmed(answer: TrackedFrame) -> list[int]:
    """Return the numbers of a frame's people as far as they are sure when it comes."""
    return [face.track for face in answer.faces if face.confirmed]


def people(tracker: FaceTracker) -> list[int]:
    """Return the numbers of the people who are followed or waited for."""
    return sorted(track.number for track in tracker._tracks if track.number)


def walk(count: int, **paths: tuple[float, float]) -> list[tuple[np.ndarray, Detections | None]]:
    """Return frames in which people walk from the first to the second x."""
    frames: list[tuple[np.ndarray, Detections | None]] = []
    for index in range(count):
        share = index / max(1, count - 1)
        places = {name: (x0 + (x1 - x0) * share, 100.0) for name, (x0, x1) in paths.items()}
        frames.append((scene(places), faces(places.values())))
    return frames


def test_no_frame_is_lost_at_the_start() -> None:
    answers, seen, tracker = follow(walk(6, red=(100, 160)))
    assert [list(frame) for frame in seen] == [[1]] * 6
    assert [[face.track for face in answer.faces] for answer in answers] == [[-1], [-1], [1], [1], [1], [1]]
    assert [answer.renamed for answer in answers] == [(), (), ((-1, 1),), (), (), ()]
    np.testing.assert_allclose([frame[1] for frame in seen], np.linspace(100, 160, 6), atol=0.1)
    assert people(tracker) == [1]


def test_fast_walkers_keep_their_number_at_eight_samples_a_second() -> None:
    """80 % of a face's width between two samples: plain overlap of boxes would lose it."""
    _, seen, _ = follow(walk(8, red=(40, 376)))
    assert [list(frame) for frame in seen] == [[1]] * 8


def test_people_who_cross_keep_their_numbers() -> None:
    frames = []
    for index in range(24):
        share = index / 23
        places = {"red": (60 + 300 * share, 100.0), "blue": (360 - 300 * share, 104.0)}
        apart = abs(places["red"][0] - places["blue"][0]) > 35
        visible = places if apart else {"blue": places["blue"]}
        frames.append((scene(places), faces(visible.values())))
    _, seen, _ = follow(frames)
    red, blue = seen[0]
    assert seen[0][red] < seen[0][blue]
    assert set().union(*seen) == {red, blue}
    assert seen[-1][red] > seen[-1][blue]


def test_numbers_follow_first_appearance_then_place() -> None:
    late = [faces([(300, 100), (100, 100)])] * 4 + [faces([(300, 100), (100, 100), (200, 100)])] * 4
    image = scene({"red": (100, 100), "blue": (300, 100), "green": (200, 100)})
    _, seen, _ = follow([(image, found) for found in late])
    assert seen[0] == {1: 100.0, 2: 300.0}
    assert seen[-1] == {1: 100.0, 2: 300.0, 3: 200.0}


def test_one_or_two_false_detections_are_nobody() -> None:
    image = scene({})
    nothing = (image, Detections.empty())
    stray = (image, faces([(200, 100)], score=0.7))
    for pattern in ([stray], [stray, stray], [stray, nothing, nothing, stray], [stray, nothing, stray]):
        _, seen, tracker = follow([nothing, *pattern, *[nothing] * 8])
        assert not any(seen)
        assert not tracker._tracks


def test_a_missed_detection_does_not_end_a_track() -> None:
    frames = walk(12, red=(100, 220))
    frames[5] = (frames[5][0], Detections.empty())
    frames[6] = (frames[6][0], Detections.empty())
    _, seen, _ = follow(frames)
    assert set().union(*seen) == {1}
    assert [len(frame) for frame in seen] == [1] * 5 + [0, 0] + [1] * 5


def test_who_comes_back_within_two_seconds_is_the_same() -> None:
    here, away = walk(6, red=(150, 170)), [(scene({}), Detections.empty())] * 16
    _, seen, _ = follow([*here, *away, *walk(6, red=(190, 210))])
    assert set().union(*seen) == {1}
    assert [len(frame) for frame in seen[-6:]] == [1] * 6


def test_a_stranger_at_the_same_place_is_somebody_else() -> None:
    here, away = walk(6, red=(150, 170)), [(scene({}), Detections.empty())] * 10
    _, seen, _ = follow([*here, *away, *walk(6, blue=(170, 150))])
    assert set(seen[0]) == {1}
    assert set(seen[-1]) == {2}
    # By boxes alone nothing tells them apart.
    _, seen, _ = follow([*here, *away, *walk(6, blue=(170, 150))], appearance=None)
    assert set(seen[-1]) == {1}


def test_who_stays_away_is_over() -> None:
    tracker, known = FaceTracker(FPS), []
    for image, found in [*walk(6, red=(150, 170)), *[(scene({}), Detections.empty())] * 30]:
        tracker.update(image, found)
        known.append(people(tracker))
    assert known == [[]] * 2 + [[1]] * (3 + 21) + [[]] * 10
    assert not tracker._tracks


def test_a_cut_ends_every_track() -> None:
    first = walk(6, red=(120, 130), blue=(300, 290))
    rng = np.random.default_rng(0)
    other = cv2.resize(rng.integers(0, 255, (4, 7, 3), np.uint8), (420, 240))
    second = [(other, faces([(125, 100), (295, 100)]))] * 6
    _, seen, tracker = follow([*first, *second])
    assert set(seen[5]) == {1, 2}
    assert set(seen[6]) == {3, 4}
    assert people(tracker) == [3, 4]


def test_skipped_detection_is_predicted() -> None:
    frames = walk(16, red=(60, 360))
    frames = [(image, found if index % 2 == 0 else None) for index, (image, found) in enumerate(frames)]
    answers, seen, _ = follow(frames)
    assert [list(frame) for frame in seen] == [[1]] * 16
    np.testing.assert_allclose([frame[1] for frame in seen[6:]], np.linspace(60, 360, 16)[6:], atol=8)
    assert answers[9].faces[0].score < answers[8].faces[0].score


def test_nobody_is_predicted_onto_a_black_frame() -> None:
    frames = walk(6, red=(100, 120))
    black = np.zeros_like(frames[0][0])
    answers, _, _ = follow([*frames, (black, None)])
    assert answers[-1].faces == ()


def test_a_still_counts_at_once() -> None:
    image = scene({"red": (100, 100), "blue": (300, 100)})
    answers, _, tracker = follow([(image, faces([(100, 100), (300, 100)]))], still=True)
    assert [face.track for face in answers[0].faces] == [1, 2]
    assert people(tracker) == [1, 2]


def test_a_file_that_is_longer_than_it_said_has_its_faces_confirmed() -> None:
    image = scene({})
    shown = [[(100, 100)] if number < 20 else [] for number in range(21)]
    shown[10].append((300, 100))
    answers, _, _ = follow([(image, faces(places)) for places in shown], still=True)
    assert confirmed(answers[0]) == [1]
    assert {number for answer in answers for number in confirmed(answer)} == {1}, "a flicker is no person"


@pytest.mark.parametrize(("fps", "waits"), [(0.5, 2), (1.0, 2), (2.0, 2), (12.0, 3), (30.0, 6)])
def test_any_sampled_rate(fps: float, waits: int) -> None:
    tracker = FaceTracker(fps)
    numbers = [confirmed(tracker.update(image, found)) for image, found in walk(10, red=(100, 160))]
    assert numbers == [[]] * waits + [[1]] * (10 - waits)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps: float) -> None:
    with pytest.raises(ConfigError, match="sampled_fps"):
        FaceTracker(fps)


def test_batches_do_not_change_numbers() -> None:
    """The detector's batch is cut three ways; the tracker's answers are equal to the bit."""
    rng = np.random.default_rng(4)
    images = []
    for _ in range(20):
        image = np.zeros((160, 240, 3), np.uint8)
        x, y = rng.integers(0, 60, 2)
        image[y : y + 50, x : x + 50] = 255
        image[100:140, 150 + x : 190 + x] = 230
        images.append(image)
    results = []
    for batch in (1, 3, 20):
        detector, tracker = FakeDetector(), FaceTracker(FPS)
        found = [one for start in range(0, 20, batch) for one in detector.detect(images[start : start + batch])]
        answers = [tracker.update(image, one) for image, one in zip(images, found, strict=True)]
        results.append([[(f.track, f.box.tolist(), f.quality) for f in answer.faces] for answer in answers])
    assert results[0] == results[1] == results[2]
    assert any(results[0])


def test_two_trackers_do_not_share_numbers() -> None:
    first, second = FaceTracker(FPS), FaceTracker(FPS)
    for image, found in walk(5, red=(100, 120)):
        one, two = first.update(image, found), second.update(image, found)
    assert [face.track for face in one.faces] == [face.track for face in two.faces] == [1]


def test_state_stays_bounded_over_many_people() -> None:
    """An hour of passers-by and false detections; boxes alone, to be quick."""
    tracker = FaceTracker(FPS, appearance=None)
    rng = np.random.default_rng(1)
    image = scene({})
    largest = latest = 0
    for index in range(4000):
        x = 30 + (index % 40) * 9
        found = [(float(x), 100.0)] if index % 40 < 30 else []
        if rng.random() < 0.2:
            found.append((float(rng.uniform(0, 400)), 200.0))
        answer = tracker.update(image, faces(found))
        latest = max([latest, *confirmed(answer)])
        largest = max(largest, len(tracker._tracks), len(tracker._associator._engine.tracks))
    assert latest >= 50
    assert largest < 12


def test_frames_without_pixels_pass() -> None:
    tracker = FaceTracker(FPS)
    answer = tracker.update(np.zeros((0, 0, 3), np.uint8), Detections.empty())
    assert answer == TrackedFrame(())
