"""The LBP cascade that scikit-image ships: a detector that needs no weights of ours and no network."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.finder import DetectorSettings, Finder, Found
from streamfer.faces.images import DetectionSize
from streamfer.faces.registry import DetectorEntry

#: The cascade gives no score. This one lets its faces start tracks, and ranks them below a sure network.
CASCADE_SCORE = 0.75
#: Longer side of the picture that is searched unless another is asked for.
USUAL_SIDE = 400
#: Faces below this side (pixels of the shrunken picture) are not searched for: the cascade's window is 24.
SMALLEST_WINDOW = 24
#: From the cascade's square (eyebrows to chin) to the box that YuNet and SCRFD draw (forehead to chin): offsets
#: of the four sides in units of the square. Medians over 182 faces seen by the cascade and by YuNet.
TO_FACE_BOX = np.array([-0.02, -0.09, 0.04, 0.17], np.float32)


class CascadeDetector(Finder):
    """OpenCV's frontal-face LBP cascade run by scikit-image, grey, upright frontal faces only; no landmarks."""

    def __init__(self, entry: DetectorEntry, settings: DetectorSettings) -> None:
        from skimage import data
        from skimage.feature import Cascade

        packaged: Any = data  # untyped
        self._cascade = Cascade(packaged.lbp_frontal_face_cascade_filename())
        size = DetectionSize(USUAL_SIDE) if settings.size.longer_side is None else settings.size
        super().__init__(entry.name, "skimage", entry.licence, size, settings.max_faces)

    def _find(self, picture: NDArray[np.uint8]) -> Found:
        side = min(picture.shape[:2])
        found = []
        if side >= SMALLEST_WINDOW:
            found = self._cascade.detect_multi_scale(
                img=cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY),
                scale_factor=1.2,
                step_ratio=1,
                min_size=(SMALLEST_WINDOW, SMALLEST_WINDOW),
                max_size=(side, side),
            )
        squares = np.array([[f["c"], f["r"], f["width"], f["height"]] for f in found], np.float32).reshape(-1, 4)
        squares = squares[np.argsort(-squares[:, 2], kind="stable")]
        boxes = np.concatenate([squares[:, :2], squares[:, :2] + squares[:, 2:]], axis=1)
        boxes += TO_FACE_BOX * np.tile(squares[:, 2:], 2)
        return boxes, np.full(len(boxes), CASCADE_SCORE), None
