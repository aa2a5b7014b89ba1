"""Where faces are looked for: over the whole frame, or where tracks lead to and over the whole frame now and then."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from streamfer.faces.detections import Detections, Detector, Expectation, Tracker
from streamfer.faces.finder import squares_around
from streamfer.faces.images import as_rgb

SearchMode = Literal["full", "follow"]

#: Seconds after which the whole frame is searched again, so the longest that a newcomer waits to be found.
INTERVAL = 0.5
#: A face is found where it was expected if the distance of the centres is at most this share of its side.
FOUND_WITHIN = 0.75
#: Cells of the thumbnail at its left and right, and at its top, where newcomers appear; grey levels that are a change;
#: the share of those cells that have to change, and by how many times more than all others do.
SIDES, TOP = 5, 3
CHANGE, CHANGED, STANDS_OUT = 25.0, 0.06, 2.0


class FaceSearch:
    """Finds the faces of one source and epoch, frame by frame.

    Followed, faces are searched at the places that the tracker expects, all at once. The whole frame is searched where
    nobody is followed, after a cut, while somebody is not sure to be a person, when somebody is not where they should
    be, when something moves in from the side, and at least every ``INTERVAL``.

    Attributes:
        whole: frames that were searched whole so far; ``near``: those that were not.
    """

    def __init__(self, mode: SearchMode, tracker: Tracker) -> None:
        self._mode, self._tracker = mode, tracker
        self._last = -np.inf
        self._scene: NDArray[np.float32] | None = None
        self.whole = self.near = 0

    def detect(self, detector: Detector, image: NDArray[np.uint8]) -> Detections:
        """Find the faces of the next sampled frame (uint8 RGB (H, W, 3))."""
        if self._mode == "full":
            return self._search(detector, image)
        image = as_rgb(image)
        expected = self._tracker.expect(image)
        if not self._due(expected, image):
            found = detector.detect_near(image, expected.boxes)
            if found is not None and all_found(expected, found):
                self.near += 1
                return found
        self._last, self._scene = expected.time, expected.thumbnail
        return self._search(detector, image)

    def _search(self, detector: Detector, image: NDArray[np.uint8]) -> Detections:
        self.whole += 1
        return detector.detect([image])[0]

    def _due(self, expected: Expectation, image: NDArray[np.uint8]) -> bool:
        late = expected.time - self._last >= INTERVAL - 1e-6
        unsure = expected.cut or expected.doubtful or not expected.seen.any()
        return late or unsure or self._moved_in(expected, image)

    def _moved_in(self, expected: Expectation, image: NDArray[np.uint8]) -> bool:
        """Tell whether the frame changed at its sides since it was searched whole, and more than elsewhere."""
        if self._scene is None or expected.thumbnail is None:
            return False
        changed = np.abs(expected.thumbnail - self._scene) > CHANGE
        height, width = changed.shape
        side = np.zeros_like(changed)
        side[:, :SIDES] = side[:, -SIDES:] = side[:TOP] = True
        known = np.zeros_like(changed)
        by = np.array([width / image.shape[1], height / image.shape[0]])
        for left, top, span in squares_around(expected.boxes):
            x1, y1 = np.maximum(np.floor(np.array([left, top]) * by), 0).astype(int)
            x2, y2 = np.maximum(np.ceil(np.array([left + span, top + span]) * by), 0).astype(int)
            known[y1:y2, x1:x2] = True
        at_side, elsewhere = changed[side & ~known], changed[~side & ~known]
        share = float(at_side.mean()) if at_side.size else 0.0
        usual = float(elsewhere.mean()) if elsewhere.size else 0.0
        return share > max(CHANGED, STANDS_OUT * usual)


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
