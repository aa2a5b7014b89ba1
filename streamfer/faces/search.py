"""Where faces are looked for: over the whole frame, or where tracks lead to and over the whole frame now and then."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from streamfer.faces.detections import Detections, Detector, Expectation
from streamfer.faces.finder import Part, squares_around
from streamfer.faces.images import as_rgb

if TYPE_CHECKING:
    from streamfer.faces.tracking import FaceTracker

SearchMode = Literal["full", "follow"]

#: Seconds after which all that has changed is searched, so the longest that a newcomer waits to be found.
INTERVAL = 0.5
#: Seconds after which the whole frame is; twice as many after each time in vain, and never more than so many.
SETTLED, LONGEST = 2.0, 8.0
#: A face is found where it was expected if the distance of the centres is at most this share of its side.
FOUND_WITHIN = 0.75
#: Grey levels by which a cell of the thumbnail changes where something new may be seen, and cells around those that are
#: searched with them.
CHANGED, AROUND = 3.0, 2
#: Cells of the thumbnail at its left and right, and at its top, where newcomers appear; grey levels that are a change
#: there; the share of those cells that have to change, and by how many times more than all others do.
SIDES, TOP = 5, 3
MOVED, MOVED_SHARE, STANDS_OUT = 25.0, 0.06, 2.0


class FaceSearch:
    """Finds the faces of one source and epoch, frame by frame.

    Followed, faces are searched at the places that the tracker expects, all at once, and at the whole frame's scale in
    the surroundings of people who are missed. Every ``INTERVAL``, and when something moves in from the side, the parts
    of the frame that have changed since they were searched are searched as well.
    The whole frame is searched where nobody is followed, after a cut, while somebody is not sure to be a person, when
    somebody is not where they should be, where little would be saved, and after ``SETTLED``, or up to ``LONGEST`` while
    that finds nobody new. Where whole frames have shown nobody for an ``INTERVAL``, as most cameras do, whatever has
    changed is searched in every frame.
    """

    def __init__(self, mode: SearchMode, tracker: FaceTracker, *, still: bool = False) -> None:
        self._mode, self._tracker, self._still = mode, tracker, still
        self._last = self._last_whole = -np.inf
        self._scene: NDArray[np.float32] | None = None
        self._alone = np.inf
        self._patience = SETTLED
        #: Frames that were searched whole so far, frames that were not, and changed parts that were searched.
        self.whole = self.near = self.parts = 0
        self._left = False

    def detect(self, detector: Detector, image: NDArray[np.uint8], *, hurried: bool = False) -> Detections | None:
        """Find the faces of the next sampled frame (uint8 RGB (H, W, 3)).

        Where that is ``hurried``, because the frame is late, every second one is left to the tracker's prediction, with
        None, as long as everybody is where they were expected.
        """
        if self._mode == "full":
            return self._search(detector, image)
        image = as_rgb(image)
        expected = self._tracker.expect(image)
        if expected.cut or len(expected.boxes):
            self._alone = np.inf
        unsure = self._unsure(expected)
        self._left = hurried and not (self._left or unsure) and bool(expected.seen.all())
        if self._left:
            return None
        late = expected.time - self._last_whole >= self._patience - 1e-6
        found = None if late or unsure else self._near(detector, image, expected)
        if found is None:
            self._last = self._last_whole = expected.time
            self._scene = expected.thumbnail
            found = self._search(detector, image)
            vain = late and len(found) <= expected.seen.sum()
            self._patience = min(2 * self._patience, LONGEST) if vain else SETTLED
        self._alone = np.inf if len(found) else min(self._alone, expected.time)
        return found

    def _search(self, detector: Detector, image: NDArray[np.uint8]) -> Detections:
        self.whole += 1
        return detector.detect([image], still=self._still)[0]

    def _unsure(self, expected: Expectation) -> bool:
        deserted = not len(expected.boxes) and expected.time - self._alone >= INTERVAL - 1e-6
        return expected.cut or expected.doubtful or not (deserted or expected.seen.any())

    def _near(self, detector: Detector, image: NDArray[np.uint8], expected: Expectation) -> Detections | None:
        """Search the places, and what has changed when it is time; None where the whole frame has to be searched."""
        now, before = expected.thumbnail, self._scene
        if now is None or before is None:
            return None
        size = np.array([image.shape[1], image.shape[0]])
        squares = squares_around(expected.boxes)
        known = cells_of(squares, size, now.shape)
        change = np.where(known, 0, np.abs(now - before))
        waited = not len(squares) or expected.time - self._last >= INTERVAL - 1e-6
        due = waited or moved_in(change > MOVED, known)
        # Whoever is missed at their place may be seen at the whole frame's scale.
        missed = cells_of(squares[~expected.seen], size, now.shape)
        parts = parts_of(missed | (change > CHANGED) if due else missed, size)
        found = detector.detect_near(image, expected.boxes, parts)
        if found is None or not all_found(expected, found):
            return None
        self.near += 1
        self.parts += len(parts)
        if due:
            self._last = expected.time
            rectangles = [np.array([left, top, right - left, bottom - top]) for left, top, right, bottom in parts]
            self._scene = np.where(known | cells_of(rectangles, size, now.shape), now, before)
        return found


def cells_of(
    places: Iterable[NDArray[np.number]], size: NDArray[np.integer], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return which cells of a thumbnail of that shape places lie in: x, y and side, or x, y, width and height."""
    cells = np.zeros(shape, bool)
    by = np.array(shape[::-1]) / size
    for place in places:
        x1, y1 = np.maximum(np.floor(place[:2] * by), 0).astype(int)
        x2, y2 = np.maximum(np.ceil((place[:2] + place[2:]) * by), 0).astype(int)
        cells[y1:y2, x1:x2] = True
    return cells


def parts_of(changed: NDArray[np.bool_], size: NDArray[np.integer]) -> list[Part]:
    """Return the parts of a frame of that size (width, height) that hold the marked cells, one a connected patch."""
    around = np.ones((2 * AROUND + 1, 2 * AROUND + 1), np.uint8)
    _, _, patches, _ = cv2.connectedComponentsWithStats(cv2.dilate(changed.astype(np.uint8), around))
    cell = np.tile(size / changed.shape[::-1], 2)
    corners = np.hstack([patches[1:, :2], patches[1:, :2] + patches[1:, 2:4]]) * cell
    return [tuple(corner) for corner in np.round(corners).astype(int).tolist()]


def moved_in(changed: NDArray[np.bool_], known: NDArray[np.bool_]) -> bool:
    """Tell whether a frame has changed at its sides, and more than elsewhere, beyond the places that are known."""
    side = np.zeros_like(changed)
    side[:, :SIDES] = side[:, -SIDES:] = side[:TOP] = True
    at_side, elsewhere = changed[side & ~known], changed[~side & ~known]
    share = float(at_side.mean()) if at_side.size else 0.0
    usual = float(elsewhere.mean()) if elsewhere.size else 0.0
    return share > max(MOVED_SHARE, STANDS_OUT * usual)


def all_found(expected: Expectation, found: Detections) -> bool:
    """Tell whether every face seen in the last frame was found near its place, each of them once."""
    boxes = expected.boxes[expected.seen]
    if len(found) < len(boxes):
        return False
    spans = boxes[:, 2:] - boxes[:, :2]
    sides = np.sqrt(np.maximum(spans[:, 0] * spans[:, 1], 1.0))
    centres, others = (boxes[:, :2] + boxes[:, 2:]) / 2, (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    near = np.linalg.norm(centres[:, None] - others[None], axis=2) <= FOUND_WITHIN * sides[:, None]
    rows, columns = linear_sum_assignment(near, maximize=True)
    return bool(near[rows, columns].all())
