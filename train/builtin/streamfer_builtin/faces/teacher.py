"""YuNet as teacher: boxes and five landmarks of any picture, with the rules by which this project calls it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from streamfer.errors import CheckpointError
from streamfer_builtin.faces.labels import FloatArray, Picture

LONGER_SIDE = 640
SCORE_THRESHOLD = 0.6


@dataclass(frozen=True, slots=True)
class TeacherFaces:
    """What the teacher sees: ``boxes`` N x 4, ``landmarks`` N x 5 x 2 (pixels of the picture), ``scores`` N."""

    boxes: FloatArray
    landmarks: FloatArray
    scores: FloatArray


class Teacher:
    """A YuNet ONNX file behind OpenCV's ``FaceDetectorYN``.

    Raises:
        CheckpointError: the file is absent or OpenCV cannot read it as a YuNet network.
    """

    def __init__(self, weights: Path, *, threshold: float = SCORE_THRESHOLD, longer_side: int = LONGER_SIDE) -> None:
        if not weights.is_file():
            raise CheckpointError(f"{weights}: no such file; point data.teacher at a YuNet ONNX file")
        try:
            self._detector = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), threshold, 0.3, 5000)
        except cv2.error as error:
            raise CheckpointError(f"{weights}: OpenCV cannot read it as YuNet ({error.msg}); fetch it again") from error
        self._longer_side = longer_side

    def faces(self, picture: Picture) -> TeacherFaces:
        """Faces of an RGB uint8 picture H x W x 3; larger pictures are shrunk to the longer side first."""
        height, width = picture.shape[:2]
        scale = min(1.0, self._longer_side / max(height, width))
        shown = picture
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            shown = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        self._detector.setInputSize((shown.shape[1], shown.shape[0]))
        found = self._detector.detect(np.ascontiguousarray(shown[..., ::-1]))[1]
        rows = np.zeros((0, 15), np.float32) if found is None else np.asarray(found, np.float32)
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return TeacherFaces(corners / scale, rows[:, 4:14].reshape(-1, 5, 2) / scale, rows[:, 14])
