"""Where faces are looked for: places laid out on one picture, and when the whole frame is searched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fakes.faces import bright_squares
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfer.faces import FaceTracker
from streamfer.faces.detections import Detections, Expectation
from streamfer.faces.finder import TILE, Finder, Found, grid_of, lay_out, merged, squares_around
from streamfer.faces.images import DetectionSize
from streamfer.faces.search import INTERVAL, SETTLED, FaceSearch, all_found, parts_of

FPS = 8.0
Image = NDArray[np.uint8]


class BrightFinder(Finder):
    """Bright squares are faces; remembers the pictures that it searched."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__("bright", "python", "none", DetectionSize(size), 64)
        self.pictures: list[tuple[int, ...]] = []

    def _find(self, picture: Image) -> Found:
        self.pictures.append(picture.shape)
        found = bright_squares(picture)
        return found.boxes, found.scores, found.landmarks


class NarrowFinder(BrightFinder):
    """Finds what is 12 to 100 pixels of its picture."""

    large = 90.0

    def _find(self, picture: Image) -> Found:
        boxes, scores, landmarks = super()._find(picture)
        seen = (boxes[:, 2] - boxes[:, 0] >= 12) & (boxes[:, 2] - boxes[:, 0] <= 100)
        return boxes[seen], scores[seen], None if landmarks is None else landmarks[seen]


def frame(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (360, 640)) -> Image:
    image = np.full((*size, 3), 40, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[max(0, y1) : y2, max(0, x1) : x2] = 250
    return image


def near(image: Image, *expected: tuple[int, int, int, int]) -> Detections:
    found = BrightFinder().detect_near(image, np.array(expected, np.float32).reshape(-1, 4))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((300, 150, 340, 200), (300, 150, 340, 200)),
        ((300, 150, 340, 200), (310, 160, 350, 210)),  # moved by a quarter
        ((300, 150, 320, 174), (296, 146, 322, 178)),  # small, and smaller than it was
        ((200, 60, 420, 320), (230, 90, 390, 280)),  # large, and has grown
        ((0, 0, 40, 50), (5, 5, 45, 55)),  # in the corner
        ((600, 300, 640, 360), (590, 290, 630, 350)),
        ((-15, 100, 30, 160), (0, 100, 40, 160)),  # partly outside
    ],
)
def test_a_face_is_found_where_it_is(box: tuple[int, int, int, int], expected: tuple[int, int, int, int]) -> None:
    found = near(frame(box), expected)
    assert len(found) == 1
    whole = bright_squares(frame(box))
    side = np.sqrt(np.prod(whole.boxes[0, 2:] - whole.boxes[0, :2]))
    assert np.abs(found.boxes - whole.boxes).max() <= 0.04 * side + 1
    assert np.abs(found.landmarks - whole.landmarks).max() <= 0.04 * side + 1


@pytest.mark.parametrize(("tile", "reach"), [(96, 2.2), (160, 3.0)])
def test_a_detector_may_state_the_size_of_its_places(tile: int, reach: float) -> None:
    finder = BrightFinder()
    finder.tile, finder.reach = tile, reach
    boxes = [(300, 150, 340, 200), (100, 60, 220, 200)]
    found = finder.detect_near(frame(*boxes), np.array(boxes, np.float32))
    assert found is not None
    assert finder.pictures == [(tile, 2 * tile, 3)]
    assert np.abs(found.boxes[np.argsort(-found.boxes[:, 0])] - boxes).max() <= 4


def test_places_that_overlap_give_each_face_once() -> None:
    first, second = (200, 100, 250, 150), (270, 110, 320, 160)
    found = near(frame(first, second), first, second)
    assert len(found) == 2
    assert sorted(round(float(x)) for x in found.boxes[:, 0]) == [200, 270]
    # A neighbour's face that the side of a place cuts is nobody: its own place shows all of it.
    third = (100, 100, 140, 140)
    found = near(frame(third, (165, 100, 205, 140)), third)
    assert len(found) == 1
    assert abs(float(found.boxes[0, 0]) - 100) < 2


def test_many_places_cost_more_than_the_whole_frame() -> None:
    finder = BrightFinder()
    boxes = np.array([(x, y, x + 20, y + 20) for x in range(0, 640, 80) for y in (50, 150)], np.float32)
    assert finder.detect_near(frame(), boxes) is None
    assert not finder.pictures
    assert finder.detect_near(frame(), boxes[:4]) is not None
    assert finder.pictures == [(2 * TILE, 2 * TILE, 3)]
    assert [grid_of(count) for count in (1, 2, 3, 4, 5, 9)] == [(1, 1), (2, 1), (2, 2), (2, 2), (3, 2), (3, 3)]


def test_places_beyond_the_frame_are_black_and_empty() -> None:
    squares = squares_around(np.array([(-900, -900, -850, -850), (620, 340, 660, 380)], np.float32))
    picture = lay_out(np.full((360, 640, 3), 90, np.uint8), squares)
    assert picture.shape == (TILE, 2 * TILE, 3)
    assert not picture[:, :TILE].any()
    assert picture[10, TILE + 10].tolist() == [90, 90, 90]
    assert not picture[-10, -10].any()


def scene(count: int, where: Callable[[int], list[tuple[int, int, int, int]]]) -> list[Image]:
    return [frame(*where(index)) for index in range(count)]


def run(
    images: list[Image], mode: str = "follow", *, hurried: bool = False
) -> tuple[FaceSearch, list[list[int]], BrightFinder]:
    tracker, finder = FaceTracker(FPS), BrightFinder()
    search = FaceSearch(mode, tracker)  # type: ignore[arg-type]
    seen = []
    for image in images:
        tracked = tracker.update(image, search.detect(finder, image, hurried=hurried))
        seen.append([face.track for face in tracked.faces if face.confirmed])
    return search, seen, finder


def moving(index: int) -> tuple[int, int, int, int]:
    return (200 + 6 * index, 120, 250 + 6 * index, 180)


def test_a_face_is_followed_and_the_whole_frame_searched_every_two_seconds() -> None:
    images = scene(33, lambda index: [moving(index)])
    search, seen, finder = run(images)
    assert all(numbers == [1] for numbers in seen[2:])
    # Three frames until it is a person, then one in sixteen; between them what it leaves behind.
    assert search.whole == 3 + 30 // round(SETTLED * FPS)
    assert search.whole + search.near == 33
    behind = [size for size in finder.pictures if size not in {(360, 640, 3), (TILE, TILE, 3)}]
    assert len(behind) == search.parts < 30 // round(INTERVAL * FPS)
    assert all(height <= 160 and width <= 120 for height, width, _ in behind)
    assert seen == run(images, "full")[1]
    assert run(images, "full")[0].near == 0


def test_in_a_hurry_every_second_frame_is_the_trackers() -> None:
    def where(index: int) -> list[tuple[int, int, int, int]]:
        return [moving(index), *([(100, 250, 140, 300)] if index >= 12 else [])]

    search, seen, _ = run(scene(24, where), hurried=True)
    assert seen[2:12] == [[1]] * 10
    assert seen[-1] == [1, 2]
    # Three frames until it is a person, then one of two; the newcomer's are searched until it is one as well.
    assert search.whole + search.near <= 3 + 21 // 2 + 3
    _, seen, _ = run(scene(12, lambda index: [moving(index)] if index < 8 else []), hurried=True)
    assert seen[7:] == [[1], [1], [], [], []] or seen[7:] == [[1], [], [], [], []]  # at most one frame late
    assert run(scene(24, where), "full", hurried=True)[0].whole == 24


@pytest.mark.parametrize("starts", range(8, 13))
def test_a_newcomer_waits_for_half_a_second_at_most(starts: int) -> None:
    newcomer = (400, 250, 440, 300)  # away from the sides, where nobody is noticed
    images = scene(24, lambda index: [(100, 100, 150, 160), *([newcomer] if index >= starts else [])])
    _, seen, _ = run(images)
    first = next(index for index, numbers in enumerate(seen) if 2 in numbers)
    assert first - starts <= round(INTERVAL * FPS) + 2  # and two more frames until it is a person


def test_only_what_has_changed_is_searched_beside_the_places() -> None:
    def where(index: int) -> list[tuple[int, int, int, int]]:
        return [(100, 100, 150, 160), *([(400, 230, 440, 280)] if index >= 4 else [])]

    search, seen, finder = run(scene(14, where))
    assert seen[-1] == [1, 2]
    assert search.parts == 1
    ((height, width, _),) = [size for size in finder.pictures if size not in {(360, 640, 3), (TILE, TILE, 3)}][:1]
    # The face and some cells of 13 pixels on each of its sides.
    assert 50 + 2 * 13 <= height <= 50 + 8 * 14
    assert 40 + 2 * 13 <= width <= 40 + 8 * 14


def test_an_empty_place_is_searched_whole_now_and_then_and_where_something_changes() -> None:
    thing = (300, 200, 330, 215)

    def picture(index: int) -> Image:
        image = frame()
        if index >= 20:  # something grey comes, and stays
            image[thing[1] : thing[3], thing[0] : thing[2]] = 90
        return image

    search, seen, finder = run([picture(index) for index in range(40)])
    assert not any(seen)
    # Half a second and the frame after it, two seconds later, then after four more; the thing once, half a second on it
    # is known.
    assert search.whole == round(INTERVAL * FPS) + 1
    assert search.parts == 1
    assert len(finder.pictures) == search.whole + 1


@pytest.mark.parametrize("starts", range(16, 20))
def test_who_comes_into_an_empty_place_is_found_at_once(starts: int) -> None:
    images = scene(40, lambda index: [(400, 150, 440, 200)] if index >= starts else [])
    search, seen, _ = run(images)
    assert seen == run(images, "full")[1]
    assert search.whole < 20


def test_who_left_is_looked_for_in_whole_frames_while_they_may_come_back() -> None:
    images = scene(24, lambda index: [] if 10 <= index < 20 else [moving(index)])
    search, seen, _ = run(images)
    assert seen[20] == [1]
    assert search.whole >= 10


def test_a_new_scene_is_searched_whole_though_the_one_before_was_empty() -> None:
    rng = np.random.default_rng(0)
    first = np.repeat(np.repeat(rng.integers(0, 90, (9, 16, 3)), 40, 0), 40, 1).astype(np.uint8)
    second = np.repeat(np.repeat(rng.integers(90, 190, (9, 16, 3)), 40, 0), 40, 1).astype(np.uint8)
    before, _, _ = run([first] * 12)
    search, _, _ = run([first] * 12 + [second] * 3)
    assert search.whole == before.whole + 3


def test_what_never_changes_is_searched_with_the_whole_frame() -> None:
    class Blink(BrightFinder):
        """Does not see the second face of the first whole frames."""

        def _find(self, picture: Image) -> Found:
            boxes, scores, points = super()._find(picture)
            shown = len(scores) if self.pictures.count((360, 640, 3)) > 3 else 1
            assert points is not None
            return boxes[:shown], scores[:shown], points[:shown]

    tracker, finder = FaceTracker(FPS), Blink()
    search = FaceSearch("follow", tracker)
    image = frame((100, 100, 150, 160), (400, 230, 440, 280))
    seen = [len(tracker.update(image, search.detect(finder, image)).faces) for _ in range(24)]
    assert seen[2:18] == [1] * 16
    assert seen[18:] == [2] * 6


def test_parts_are_patches_of_change_with_some_cells_around() -> None:
    changed = np.zeros((27, 48), bool)
    size = np.array([960, 540])
    assert parts_of(changed, size) == []
    changed[10:12, 5] = changed[0, 47] = True
    assert sorted(parts_of(changed, size)) == [(60, 160, 160, 280), (900, 0, 960, 60)]


def test_a_face_on_the_side_of_a_part_is_not_one() -> None:
    boxes = np.array([(100, 100, 150, 160)], np.float32)
    both = frame((100, 100, 150, 160), (400, 230, 440, 280))
    found = BrightFinder(320).detect_near(both, boxes, [(380, 210, 460, 300)])
    assert found is not None
    assert np.abs(np.sort(found.boxes[:, 0]) - [100, 400]).max() <= 2
    cut = BrightFinder(320).detect_near(both, boxes, [(380, 210, 420, 300), (420, 210, 460, 300)])
    assert cut is not None
    assert len(cut) == 1
    assert BrightFinder().detect_near(both, boxes, [(0, 0, 640, 300)]) is None


@pytest.mark.parametrize(("size", "scales"), [((360, 640), 2), ((1080, 1920), 3)], ids=str)
def test_faces_that_fill_the_picture_are_found_at_a_coarser_scale(size: tuple[int, int], scales: int) -> None:
    height, width = size
    finder = NarrowFinder(max(size))
    large = (width // 2, height // 10, width // 2 + int(0.8 * height), height - height // 10)
    middling = (30, 5, 30 + min(90, height - 10), min(95, height - 5))
    (found,) = finder.detect([frame(large, middling, (4, 20, 18, 40), size=size)])
    places = {tuple(box) for box in found.boxes.round().astype(int).tolist()}
    assert [shape[1] for shape in finder.pictures] == [round(width / 3**scale) for scale in range(scales)]
    assert len(places) == 3, "each once"
    for box in (large, middling, (4, 20, 18, 40)):
        assert min(np.abs(np.subtract(place, box)).max() for place in places) <= 0.02 * width


def test_a_picture_without_space_for_a_large_face_is_searched_once() -> None:
    finder = NarrowFinder()
    assert len(finder.detect([frame((5, 5, 70, 80), size=(130, 200))])[0]) == 1
    assert len(finder.pictures) == 1


def test_what_is_large_for_a_part_is_found_there_too() -> None:
    image, boxes = frame((10, 10, 40, 50), (300, 40, 560, 330), size=(360, 640)), np.array([(10, 10, 40, 50)])
    found = NarrowFinder(640).detect_near(image, np.asarray(boxes, np.float32), [(280, 10, 600, 350)])
    assert found is not None
    assert np.abs(np.sort(found.boxes[:, 0]) - [10, 300]).max() <= 3


def test_whoever_comes_in_from_the_side_is_found_at_once() -> None:
    def where(index: int) -> list[tuple[int, int, int, int]]:
        return [(300, 100, 350, 160), *([(0, 120, 60, 300)] if index >= 9 else [])]

    _, seen, _ = run(scene(16, where))
    assert seen[11] == [1, 2]


def test_a_loss_is_looked_into_at_once() -> None:
    # It jumps further than its place reaches.
    images = scene(16, lambda index: [(100, 100, 150, 160) if index < 9 else (100, 230, 150, 290)])
    search, seen, finder = run(images)
    assert finder.pictures[9:].count((360, 640, 3)) > (16 - 9) // 4
    assert seen == run(images, "full")[1]
    assert search.near > 0
    gone = scene(16, lambda index: [(100, 100, 150, 160)] if index < 6 else [])
    assert run(gone)[1] == run(gone, "full")[1]


def test_what_the_tracker_expects_changes_nothing_of_what_it_says() -> None:
    images = scene(12, lambda index: [moving(index), (450, 200, 500, 260)])
    plain, asked = FaceTracker(FPS), FaceTracker(FPS)
    for index, image in enumerate(images):
        found = bright_squares(image)
        expected = asked.expect(image)
        assert expected.time == asked.expect(image).time == index / FPS
        if index > 4:
            assert expected.seen.all()
            assert not expected.doubtful
            assert np.abs(np.sort(expected.boxes[:, 0]) - np.sort(found.boxes[:, 0])).max() < 6
        first, second = plain.update(image, found), asked.update(image, found)
        assert [face.track for face in first.faces] == [face.track for face in second.faces]
        assert first.renamed == second.renamed


def test_a_cut_is_searched_whole() -> None:
    rng = np.random.default_rng(0)
    first = np.repeat(np.repeat(rng.integers(0, 90, (9, 16, 3)), 40, 0), 40, 1).astype(np.uint8)
    second = np.repeat(np.repeat(rng.integers(90, 190, (9, 16, 3)), 40, 0), 40, 1).astype(np.uint8)
    images = [(first if index < 9 else second).copy() for index in range(12)]
    for image in images:
        image[100:160, 100:150] = 250
    _, _, finder = run(images)
    assert finder.pictures[8] == (TILE, TILE, 3)
    assert finder.pictures[9] == (360, 640, 3)


def test_two_faces_need_two_findings() -> None:
    boxes = np.array([(100, 100, 150, 150), (120, 100, 170, 150)], np.float32)
    expected = Expectation(0.0, boxes, np.array([True, True]), False, False, None)
    both = Detections.ranked(boxes, np.array([0.9, 0.8]), None, 8)
    assert all_found(expected, both)
    assert not all_found(expected, both.take(np.array([0])))
    away = Detections.ranked(boxes + np.array([0, 60, 0, 60]), np.array([0.9, 0.8]), None, 8)
    assert not all_found(expected, away)
    lost = Expectation(0.0, boxes, np.array([True, False]), False, False, None)
    assert all_found(lost, both.take(np.array([0])))


@given(seed=st.integers(0, 2**32 - 1), answers=st.integers(1, 12), noise=st.floats(0, 1.5))
@settings(deadline=None)
def test_scattered_answers_about_one_face_are_one_face_with_their_mean_landmarks(
    seed: int, answers: int, noise: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.5, 1, answers + 2).astype(np.float32)
    boxes = np.tile(np.array([100, 100, 160, 180], np.float32), (answers, 1))
    boxes += rng.uniform(-noise, noise, boxes.shape).astype(np.float32)
    # One that overlaps enough to be the same face and too little to speak of its landmarks, and one elsewhere.
    boxes = np.vstack([boxes, [[120, 100, 180, 180], [300, 100, 360, 180]]]).astype(np.float32)
    scores[answers] = 0.1
    points = rng.uniform(0, 400, (answers + 2, 5, 2)).astype(np.float32)
    found, kept, means = merged(boxes, scores, points)
    order = np.argsort(-kept)
    assert len(found) == 2
    assert means is not None
    best = int(scores[:answers].argmax())
    place = int(np.flatnonzero(np.isclose(kept[order], scores[best]) & (found[order][:, 0] < 200))[0])
    np.testing.assert_array_equal(found[order][place], boxes[best])
    wanted = np.average(points[:answers], axis=0, weights=scores[:answers].astype(np.float64) ** 2)
    np.testing.assert_allclose(means[order][place], wanted, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(means[order][1 - place], points[-1], rtol=1e-5)


def test_nothing_and_boxes_without_area_are_merged_as_they_are() -> None:
    found, scores, points = merged(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2)))
    assert (found.shape, scores.shape) == ((0, 4), (0,))
    assert points is not None
    flat = np.array([[5, 5, 5, 9]], np.float32)
    _, _, points = merged(flat, np.ones(1, np.float32), np.full((1, 5, 2), 7.0))
    assert points is not None
    assert (points == 7).all()
    assert merged(flat, np.ones(1, np.float32), None)[2] is None
