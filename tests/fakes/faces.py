"""Detectors that need no weights: scripted results, or faces that are bright squares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.alignment import landmarks_within
from streamfer.faces.detections import Detections
from streamfer.faces.images import as_rgb

#: A pixel belongs to a fake face from this grey level on.
BRIGHT = 200
#: Smaller bright spots are noise.
SMALLEST_AREA = 36


def bright_squares(image: NDArray[np.uint8]) -> Detections:
    """Take every bright connected region of a uint8 RGB picture for a face, with landmarks inside its box."""
    if image.size == 0:
        return Detections.empty()
    bright = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) >= BRIGHT).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(bright)
    rows = stats[1:][stats[1:, cv2.CC_STAT_AREA] >= SMALLEST_AREA].astype(np.float32)
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    return Detections.ranked(boxes, np.full(len(boxes), 0.9), landmarks_within(boxes), max_faces=64)


class FakeDetector:
    """A :class:`~streamfer.faces.detections.Detector` for tests and demonstrations.

    Without arguments it finds bright squares. With ``script`` it returns the given detections, one a frame
    whatever the frame shows, then no faces; with ``rule`` it asks a function.
    ``seen`` counts the frames it was shown.
    """

    name, provider, licence = "fake", "python", "no weights"

    def __init__(
        self,
        script: Iterable[Detections] | None = None,
        *,
        rule: Callable[[NDArray[np.uint8]], Detections] = bright_squares,
    ) -> None:
        self._script = None if script is None else iter(script)
        self._rule = rule
        self.seen = 0
        #: whether the pictures of the last call were stills
        self.still: bool | None = None

    def detect(self, images: Sequence[NDArray[np.uint8]], *, still: bool = False) -> list[Detections]:
        """Return the next scripted detections, or what the rule finds; one result an image, in order."""
        self.seen += len(images)
        self.still = still
        if self._script is not None:
            return [next(self._script, Detections.empty()) for _ in images]
        return [self._rule(as_rgb(image)) for image in images]

    def detect_near(
        self, image: NDArray[np.uint8], expected: NDArray[np.float32], parts: Sequence[tuple[int, int, int, int]] = ()
    ) -> Detections | None:
        """Never: a script or a rule speaks of whole frames."""
        return None
