"""Scene cuts: did the camera's picture change for another one between two sampled frames?

A cut changes what colours there are *and* where they are. Fast motion changes where they are, a light that goes
on changes what they are; so both have to change, and by much more than they did lately.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.images import thinned

THUMBNAIL = (48, 27)
BINS = 8
#: Less than this share of the cells is of this grey level or lighter: a black frame, which shows no scene.
BRIGHT, BLACK = 0.01, 24
#: Share of pixels whose colour has to be new.
NEW_COLOURS = 0.45
#: Correlation with the last thumbnail below which the layout is new.
SAME_LAYOUT = 0.5
#: A cut stands out from the changes of the last frames by this factor.
STANDS_OUT = 2.0
MEMORY = 0.8


class CutDetector:
    """Tells, frame by frame, whether a new scene begins. State: one thumbnail and one histogram."""

    def __init__(self) -> None:
        #: (27, 48), the last frame that was not black, in grey, blurred.
        self.thumbnail: NDArray[np.float32] | None = None
        self._histogram: NDArray[np.float32] | None = None
        self._usual = 0.0
        self.black = False  #: the last frame was

    def step(self, image: NDArray[np.uint8]) -> bool:
        """Take the next frame (uint8 RGB (H, W, 3)); true when it is the first of a new scene.

        Black frames are passed over: what comes after one is compared with what came before, so that a
        blackout inside a scene is no cut and a cut through black is one.
        """
        if image.size == 0:
            return False
        # Every n-th pixel first: averaging a whole 1080p frame would cost more than all the rest.
        step = max(1, min(image.shape[1] // (4 * THUMBNAIL[0]), image.shape[0] // (4 * THUMBNAIL[1])))
        small = np.asarray(cv2.resize(thinned(image, step), THUMBNAIL, interpolation=cv2.INTER_AREA), np.uint8)
        bright = (small >= BLACK) @ np.ones(3, bool)
        self.black = int(np.count_nonzero(bright)) < BRIGHT * THUMBNAIL[0] * THUMBNAIL[1]
        if self.black:
            return False
        thumbnail = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (5, 5), 0).astype(np.float32)
        histogram = _histogram(small)
        before, colours = self.thumbnail, self._histogram
        self.thumbnail, self._histogram = thumbnail, histogram
        if before is None or colours is None:
            return False
        change = 1.0 - float(np.minimum(colours, histogram).sum())
        alike = _correlation(before, thumbnail)
        cut = change > max(NEW_COLOURS, STANDS_OUT * self._usual) and alike < SAME_LAYOUT
        self._usual = 0.0 if cut else MEMORY * self._usual + (1 - MEMORY) * change
        return cut


def _histogram(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the joint colour histogram, smoothed so that a slight change of light does not empty a bin."""
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [BINS, 2 * BINS, 2 * BINS], [0, 256, 64, 192, 64, 192])
    # All are whole numbers of eighths, so that no order of adding rounds.
    counts = _FINE @ (_COARSE @ counts.reshape(BINS, -1)).reshape(counts.shape) @ _FINE
    return np.asarray(counts / max(float(counts.sum()), 1e-6), np.float32)


def _smoother(bins: int) -> NDArray[np.float32]:
    """Return the matrix (bins, bins) that adds half of each neighbour, the last bin's being the first."""
    one = np.eye(bins, dtype=np.float32)
    return np.asarray(one + (np.roll(one, 1, 0) + np.roll(one, -1, 0)) / 2, np.float32)


_COARSE, _FINE = _smoother(BINS), _smoother(2 * BINS)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm > 1e-6 else 0.0
