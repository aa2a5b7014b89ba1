"""YuNet through OpenCV's FaceDetectorYN."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.errors import CheckpointError
from streamfer.faces.finder import DetectorSettings, Finder, Found
from streamfer.faces.registry import DetectorEntry

#: Boxes that overlap by more than this are one face (OpenCV's default for YuNet).
NMS_IOU = 0.3
#: Score from which a box counts.
USUAL_THRESHOLD = 0.6
#: Candidates that survive the threshold before overlapping ones are merged.
CANDIDATES = 5000


class YuNetDetector(Finder):
    """YuNet: W. Wu, H. Peng, S. Yu, "YuNet: A Tiny Millisecond-level Face Detector" (2023).

    OpenCV runs it on the CPU with the threads that ``cv2.setNumThreads`` allows the process. One instance may
    be shared by threads: calls take turns, because the wrapped object remembers its input size.
    """

    def __init__(self, entry: DetectorEntry, path: Path, settings: DetectorSettings) -> None:
        super().__init__(entry.name, "OpenCV", entry.licence, settings.size, settings.max_faces)
        self._lock = threading.Lock()
        score = settings.least_score(USUAL_THRESHOLD, USUAL_THRESHOLD)
        try:
            with _quiet():
                self._network = cv2.FaceDetectorYN.create(str(path), "", (64, 64), score, NMS_IOU, CANDIDATES)
                # A foreign network loads without complaint and fails on its first picture: fail here instead.
                self._network.detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{path}: not a YuNet network that OpenCV can run ({reason}); pull 'yunet' again or name another"
            ) from error

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
