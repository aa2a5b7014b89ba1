"""Recall, false positives and landmark error of a detector against reference faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamfer_builtin.faces.detectors import Found
from streamfer_builtin.faces.labels import BoolArray, FloatArray, overlaps

OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Reference:
    """What should be found on a picture.

    ``boxes`` N x 4, ``landmarks`` N x 5 x 2; ``counted`` N marks faces that recall is measured on. The others
    (smaller than the limit, hidden, or seen by a hesitant teacher) may be found or not.
    """

    boxes: FloatArray
    landmarks: FloatArray
    counted: BoolArray


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over pictures; ``errors`` are landmark errors in units of the inter-ocular distance."""

    pictures: int = 0
    faces: int = 0
    hits: int = 0
    false: int = 0
    pictures_with_false: int = 0
    errors: tuple[float, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.pictures + other.pictures,
            self.faces + other.faces,
            self.hits + other.hits,
            self.false + other.false,
            self.pictures_with_false + other.pictures_with_false,
            self.errors + other.errors,
        )

    @property
    def recall(self) -> float:
        """Share of counted faces found, NaN without any."""
        return self.hits / self.faces if self.faces else float("nan")

    @property
    def false_per_picture(self) -> float:
        """False positives an image."""
        return self.false / self.pictures if self.pictures else float("nan")

    @property
    def landmark_error(self) -> float:
        """Median landmark error in units of the inter-ocular distance, NaN where unknown."""
        return float(np.median(self.errors)) if self.errors else float("nan")


def tally(found: Found, reference: Reference) -> Tally:
    """Match detections to reference faces, best score first and one to one at an overlap of 0.5.

    A detection is false when it overlaps no reference face, counted or not, by that much, or when the face it
    overlaps was taken by a better one.
    """
    match = overlaps(found.boxes, reference.boxes) if len(reference.boxes) else np.zeros((len(found.boxes), 0))
    free = np.ones(len(reference.boxes), np.bool_)
    hits, false, errors = 0, 0, []
    for row in range(len(found.boxes)):
        open_overlaps = np.where(free, match[row], 0)
        best = int(open_overlaps.argmax()) if len(open_overlaps) else -1
        if best < 0 or open_overlaps[best] < OVERLAP:
            false += 1
            continue
        free[best] = False
        if reference.counted[best]:
            hits += 1
            error = _landmark_error(found.landmarks[row], reference.landmarks[best])
            errors += [error] if np.isfinite(error) else []
    return Tally(1, int(reference.counted.sum()), hits, false, int(false > 0), tuple(errors))


def _landmark_error(found: FloatArray, wanted: FloatArray) -> float:
    apart = float(np.linalg.norm(wanted[0] - wanted[1]))
    return float(np.linalg.norm(found - wanted, axis=1).mean() / max(apart, 1e-6))
