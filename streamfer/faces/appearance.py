"""What a person looks like, cheaply: colours of face, hair and clothes, and the gradients of the face.

A descriptor is float32 (P, D): P parts, each of length 1, or 0 where the part lies outside the frame. It tells
people of one scene apart for seconds; it is no face recognition, and it never leaves the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.alignment import crop_transforms, warp
from streamfer.faces.images import thinned
from streamfer.geometry import loose_crop

PATCH = 32
#: Bins of lightness and of each colour axis; tints beyond 96 to 176 (grey is 128) share the outermost bins.
BINS_L, BINS_AB, TINTS = 8, 16, (96, 176)
DIMENSIONS = BINS_L + BINS_AB**2
#: Parts in units of the face box (x1, y1, x2, y2 from its corner): face, hair and forehead, collar and chest.
PARTS = ((0.15, 0.2, 0.85, 0.95), (0.0, -0.35, 1.0, 0.15), (-0.2, 1.15, 1.2, 1.9))
#: Weight of each part, and of the gradients, in the similarity.
WEIGHTS = np.array([0.3, 0.2, 0.3, 0.2], np.float32)
#: Less of a part than this inside the frame says nothing.
SEEN = 0.4


_PROFILE = loose_crop(PATCH)
#: Describes the faces of one uint8 RGB frame, by their boxes (F, 4) and landmarks (F, 5, 2), so that
#: :func:`similarity` compares them: float32 (F, P, D).
Appearance = Callable[[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


def colours_and_gradients(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], landmarks: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return Lab colour histograms of three parts and a histogram of oriented gradients, (F, 4, 264): the default."""
    descriptors = np.zeros((len(boxes), len(PARTS) + 1, DIMENSIONS), np.float32)
    if not len(boxes) or image.size == 0:
        return descriptors
    for row, box, points in zip(descriptors, boxes, landmarks, strict=True):
        # Colours and coarse gradients survive leaving out pixels; averaging all of a large face is slow.
        step = max(1, int(min(box[2:] - box[:2])) // (2 * PATCH))
        coarse, small = thinned(image, step), np.asarray(box, np.float64) / step
        for part, region in enumerate(PARTS):
            row[part] = _colours(coarse, small, region)
        transform = crop_transforms(small[None], points[None] / step, _PROFILE)[0]
        row[-1] = _gradients(warp(coarse, transform, PATCH))
    return descriptors


def similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weighted cosine (N, M), at most 1, of descriptors (N, P, D) and (M, P, D) over the parts both have.

    0.5, which says nothing either way, where they share no part.
    """
    weights = WEIGHTS if a.shape[1] == len(WEIGHTS) else np.ones(a.shape[1], np.float32)
    shared = (weights * (a != 0).any(-1)) @ (b != 0).any(-1).T.astype(np.float32)
    alike = (weights[:, None] * a).reshape(len(a), -1) @ b.reshape(len(b), -1).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(shared > 0, alike / shared, 0.5), np.float32)


def blend(old: NDArray[np.float32], new: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
    """Return the template (P, D) moved towards ``new`` by ``rate``; parts absent on one side are the other's."""
    has_old, has_new = (old != 0).any(-1, keepdims=True), (new != 0).any(-1, keepdims=True)
    mixed = np.where(has_old & has_new, (1 - rate) * old + rate * new, old + new)
    length = np.linalg.norm(mixed, axis=-1, keepdims=True)
    return np.asarray(mixed / np.maximum(length, 1e-9), np.float32)


def _colours(image: NDArray[np.uint8], box: NDArray[np.float64], region: Sequence[float]) -> NDArray[np.float32]:
    """Return the colour histogram of one part, length 1, zero where it is not seen."""
    height, width = image.shape[:2]
    # Plain numbers, since arrays of four take ten times as long.
    x, y, to_x, to_y = box.tolist()
    across, down = to_x - x, to_y - y
    left, top, right, bottom = (
        corner + share * side for corner, share, side in zip((x, y) * 2, region, (across, down) * 2, strict=True)
    )
    x1, y1 = max(0, math.floor(left)), max(0, math.floor(top))
    x2, y2 = min(width, math.ceil(right)), min(height, math.ceil(bottom))
    area = max((right - left) * (bottom - top), 1e-6)
    if x2 - x1 < 2 or y2 - y1 < 2 or (x2 - x1) * (y2 - y1) < SEEN * area:
        return np.zeros(DIMENSIONS, np.float32)
    patch = cv2.resize(image[y1:y2, x1:x2], (PATCH, PATCH), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)
    lab[:, :, 1:] = np.clip(lab[:, :, 1:], TINTS[0], TINTS[1] - 1)
    light = cv2.calcHist([lab], [0], None, [BINS_L], [0, 256])
    tint = cv2.calcHist([lab], [1, 2], None, [BINS_AB, BINS_AB], [*TINTS, *TINTS])
    # Smoothing keeps a slight change of light from moving everything into the next bin.
    light = cv2.GaussianBlur(light.reshape(1, -1), (3, 1), 0.7)
    tint = cv2.GaussianBlur(tint, (3, 3), 0.9)
    packed = np.concatenate([0.5 * light.reshape(-1), tint.reshape(-1)])
    return np.asarray(packed / max(float(np.linalg.norm(packed)), 1e-6), np.float32)


def _gradients(patch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a histogram of oriented gradients: 4 x 4 cells of 8 pixels, 8 directions, each cell's mean removed.

    Without its mean a cell tells directions, not how much texture it has, which all faces share.
    """
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gx, gy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength = np.sqrt(np.hypot(gx, gy))
    direction = (np.mod(np.arctan2(gy, gx), np.pi) * (8 / np.pi)).astype(int) % 8
    cells = (np.arange(PATCH) // 8)[:, None] * 4 + np.arange(PATCH) // 8
    counts = np.bincount((cells * 8 + direction).ravel(), strength.ravel(), minlength=128).reshape(16, 8)
    found = np.zeros(DIMENSIONS, np.float32)
    found[:128] = (counts - counts.mean(axis=1, keepdims=True)).ravel()
    return np.asarray(found / max(float(np.linalg.norm(found)), 1e-6), np.float32)
