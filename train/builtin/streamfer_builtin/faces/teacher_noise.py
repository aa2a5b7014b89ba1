"""How far the teacher's landmarks move when it is shown the same face again: the noise in every label it gives."""

from __future__ import annotations

import cv2
import numpy as np

from streamfer_builtin.faces.labels import Labels, Picture
from streamfer_builtin.faces.shards import Shard
from streamfer_builtin.faces.teacher import Teacher

SCALES = (1.0, 0.5, 0.3)
MARGIN = 100
SMALLEST_PICTURE = 120


def self_disagreement(teacher: Teacher, pictures: Shard, scale: float) -> tuple[int, float]:
    """Number of faces compared and the median landmark error between the stored and a second look.

    The second look is at the picture shrunk by ``scale`` with a grey border; the error is in units of the
    inter-ocular distance. Pictures under 120 pixels and faces missed the second time are left out.
    """
    errors = []
    for index in range(len(pictures)):
        picture, labels = pictures.picture(index), pictures.faces(index)
        if max(picture.shape[:2]) < SMALLEST_PICTURE:
            continue
        error = _second_look(teacher, picture, labels, scale)
        errors += [] if error is None else [error]
    return len(errors), float(np.median(errors)) if errors else float("nan")


def _second_look(teacher: Teacher, picture: Picture, labels: Labels, scale: float) -> float | None:
    shrunk = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    framed = np.full((shrunk.shape[0] + 2 * MARGIN, shrunk.shape[1] + 2 * MARGIN, 3), 110, np.uint8)
    framed[MARGIN:-MARGIN, MARGIN:-MARGIN] = shrunk
    seen = teacher.faces(framed)
    if len(seen.boxes) == 0:
        return None
    moved = (seen.landmarks[0] - MARGIN) / scale - labels.landmarks[0]
    apart = float(np.linalg.norm(labels.landmarks[0, 0] - labels.landmarks[0, 1]))
    return float(np.linalg.norm(moved, axis=1).mean() / max(apart, 1e-6))
