"""The LBP cascade that scikit-image ships: a detector that needs no weights of ours and no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.detections import Detections
from streamfer.faces.images import DetectionSize, as_rgb

#: The cascade gives no score. This one lets its faces start tracks, and ranks them below a sure network.
CASCADE_SCORE = 0.75
#: Faces below this side (pixels of the shrunken picture) are not searched for: the cascade's window is 24.
SMALLEST_WINDOW = 24
#: From the cascade's square (eyebrows to chin) to the box that YuNet and SCRFD draw (forehead to chin): offsets
#: of the four sides in units of the square. Medians over 182 faces seen by the cascade and by YuNet.
TO_FACE_BOX = np.array([-0.02, -0.09, 0.04, 0.17], np.float32)


class CascadeDetector:
    """OpenCV's frontal-face LBP cascade run by scikit-image, grey, upright frontal faces only; no landmarks."""

    def __init__(self, *, det_size: DetectionSize | None = None, max_faces: int = 64) -> None:
        from skimage import data
        from skimage.feature import Cascade

        packaged: Any = data  # untyped
        self._cascade = Cascade(packaged.lbp_frontal_face_cascade_filename())
        self._det_size = det_size or DetectionSize(400)
        self._max_faces = max_faces

    @property
    def name(self) -> str:
        """Registered name."""
        return "lbp"

    @property
    def provider(self) -> str:
        """scikit-image's compiled code, one thread."""
        return "skimage"

    @property
    def licence(self) -> str:
        """Licence of the cascade file that scikit-image ships."""
        return "3-clause BSD (OpenCV's cascade, packaged by scikit-image)"

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find the faces of each image (uint8 RGB, (H, W, 3), any sizes); one result an image, in order."""
        return [self._detect(as_rgb(image)) for image in images]

    def _detect(self, image: NDArray[np.uint8]) -> Detections:
        if min(image.shape[:2]) < SMALLEST_WINDOW:
            return Detections.empty()
        small, (fx, fy) = self._det_size.resize(image)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        side = min(grey.shape)
        if side < SMALLEST_WINDOW:
            return Detections.empty()
        found = self._cascade.detect_multi_scale(
            img=grey,
            scale_factor=1.2,
            step_ratio=1,
            min_size=(SMALLEST_WINDOW, SMALLEST_WINDOW),
            max_size=(side, side),
        )
        if not found:
            return Detections.empty()
        squares = np.array([[f["c"], f["r"], f["width"], f["height"]] for f in found], np.float32)
        squares = squares[np.argsort(-squares[:, 2], kind="stable")]
        boxes = np.concatenate([squares[:, :2], squares[:, :2] + squares[:, 2:]], axis=1)
        boxes += TO_FACE_BOX * np.tile(squares[:, 2:], 2)
        boxes /= np.array([fx, fy, fx, fy], np.float32)
        return Detections.ranked(boxes, np.full(len(boxes), CASCADE_SCORE), None, self._max_faces)
