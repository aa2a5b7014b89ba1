"""Shrinking before warping, so that small faces are averaged rather than sampled."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer_builtin.faces.labels import Picture

_LIMIT = 0.7


def presized(picture: Picture, matrix: NDArray[np.floating]) -> tuple[Picture, NDArray[np.float64]]:
    """``picture`` shrunk by area where the 2 x 3 ``matrix`` would shrink it, and the matrix for the shrunk picture.

    Warping the result with the new matrix puts every pixel where the old matrix put it.
    """
    moved = matrix.astype(np.float64)
    scale = float(np.sqrt(abs(np.linalg.det(moved[:, :2]))))
    if scale >= _LIMIT:
        return picture, moved
    height, width = picture.shape[:2]
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    ratio = np.array([width / size[0], height / size[1]])
    # A warp maps pixel centres: centre x of the shrunk grid is ratio * (x + 1/2) - 1/2 of the old one.
    moved[:, 2] += moved[:, :2] @ (0.5 * ratio - 0.5)
    moved[:, :2] *= ratio
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8), moved
