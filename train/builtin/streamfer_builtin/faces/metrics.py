"""Detections against reference faces: who was found at which score, and what was found where nothing is.

Detections are matched best score first, so that the outcome at any threshold is a prefix of one pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamfer.faces import Detections
from streamfer.faces.detections import overlap
from streamfer_builtin.faces.labels import FloatArray, Labels, overlaps

OVERLAP = 0.5
_DOUBTFUL_OVERLAP = 0.3
SMALLEST = 10.0
"""Faces whose shorter side is less (pixels of the stored picture) are neither right nor wrong."""


@dataclass(frozen=True, slots=True)
class Face:
    """A reference face: where it belongs, and the score at which it was found (0: not at all).

    ``size`` is the shorter side in pixels of the stored picture, ``error`` the mean distance of the five landmarks in
    units of the distance of the eyes (NaN when not found or unknown).
    """

    size: float
    profile: bool
    grey: bool
    light: float
    score: float
    error: float


@dataclass(slots=True)
class Outcome:
    """What a detector did on a set of pictures."""

    pictures: int = 0
    faces: list[Face] = field(default_factory=list)
    false: list[float] = field(default_factory=list)

    def false_a_picture(self, threshold: float) -> float:
        """False faces a picture scored at least ``threshold``."""
        return float((np.array(self.false) >= threshold).sum() / max(1, self.pictures))

    def threshold_for(self, allowed: float) -> float:
        """The lowest threshold, in hundredths, with at most ``allowed`` false faces a picture."""
        for hundredth in range(5, 100):
            if self.false_a_picture(hundredth / 100) <= allowed:
                return hundredth / 100
        return 1.0


def recall(faces: list[Face], threshold: float) -> float:
    """Share of ``faces`` found at ``threshold``, NaN without any."""
    return float(np.mean([face.score >= threshold for face in faces])) if faces else float("nan")


def landmark_error(faces: list[Face], threshold: float) -> float:
    """Median landmark error of the frontal faces found that are at least 32 pixels, NaN where unknown."""
    errors = [
        face.error
        for face in faces
        if face.score >= threshold and face.size >= 32 and not face.profile and np.isfinite(face.error)
    ]
    return float(np.median(errors)) if errors else float("nan")


def judge(
    outcome: Outcome,
    found: Detections,
    labels: Labels,
    profile: NDArray[np.bool_],
    *,
    picture: NDArray[np.uint8],
    grey: bool,
) -> None:
    """Add one picture to ``outcome``.

    A detection is right when it overlaps a counted face by half and no better one took it; it is neither right nor
    wrong when it overlaps an ignored or tiny one by 0.3 or lies half inside it; else it is false.
    """
    sides = labels.boxes[:, 2:] - labels.boxes[:, :2]
    counted = ~labels.ignored & (sides.min(axis=1, initial=np.inf) >= SMALLEST)
    score, error = np.zeros(len(labels)), np.full(len(labels), np.nan)
    match = overlaps(found.boxes, labels.boxes)
    inside = overlap(found.boxes, labels.boxes)
    doubtful = ((match >= _DOUBTFUL_OVERLAP) | (inside >= 0.5)) & ~counted
    outcome.pictures += 1
    for row, confidence in enumerate(found.scores.tolist()):
        free = np.where(counted & (score == 0), match[row], 0)
        best = int(free.argmax()) if len(free) else -1
        if best >= 0 and free[best] >= OVERLAP:
            score[best] = confidence
            error[best] = _landmark_error(found.landmarks[row], labels.landmarks[best])
        elif not doubtful[row].any():
            outcome.false.append(confidence)
    for index in np.flatnonzero(counted).tolist():
        size, light = float(sides[index].min()), _light(picture, labels.boxes[index])
        outcome.faces.append(Face(size, bool(profile[index]), grey, light, float(score[index]), float(error[index])))


def _light(picture: NDArray[np.uint8], box: FloatArray) -> float:
    """Mean grey level of the middle half of the box."""
    height, width = picture.shape[:2]
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 4
    left, top = np.clip((centre - half).astype(int), 0, [width - 1, height - 1])
    right, bottom = np.clip((centre + half).astype(int) + 1, 1, [width, height])
    return float(picture[top:bottom, left:right].mean())


def _landmark_error(found: FloatArray, wanted: FloatArray) -> float:
    apart = float(np.linalg.norm(wanted[0] - wanted[1]))
    return float(np.linalg.norm(found - wanted, axis=1).mean() / max(apart, 1e-6))
