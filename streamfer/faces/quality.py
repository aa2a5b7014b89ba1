"""How much a face crop is worth to a model, as one number from 0 to 1.

quality = size * sharpness * pose * inside, each factor from 0 to 1:

- size: the face's side (geometric mean of the box's sides) over 64 pixels, at most 1. Models see 64 to 224
  pixels; below 64 a crop holds less than the smallest of them expects.
- sharpness: v / (v + 80) with v the variance of the Laplacian of the face at 64 x 64 grey pixels, divided by
  the variance of its grey levels over 2500 (a contrast of 50 levels), so that dim light is not taken for blur.
- pose: 1 for a frontal face, falling with the turn seen in the five landmarks: the nose's distance from the
  middle of the eyes, along the line of the eyes, over half the eyes' distance (yaw), and the nose's place
  between eyes and mouth (pitch); 0.8 without landmarks.
- inside: the share of the box that lies within the frame, squared.

The factors multiply, so the score falls whenever one of them does and the others stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.detections import TrackedFace

#: Side in pixels from which size costs nothing, and at which sharpness is measured.
FULL_SIZE = 64
#: Laplacian variance, at a contrast of 50 grey levels, that counts as half sharp.
HALF_SHARP = 80.0
USUAL_VARIANCE = 2500.0
#: Pose factor of a face without landmarks.
UNKNOWN_POSE = 0.8
#: A frontal nose lies this far from the eyes on the way to the mouth.
FRONTAL_NOSE = 0.55


def size_factor(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the size factor (N,) of boxes (N, 4), pixels."""
    sides = np.maximum(np.asarray(boxes, np.float64)[:, 2:] - np.asarray(boxes, np.float64)[:, :2], 0)
    side = np.sqrt(sides.prod(axis=1))
    return np.asarray(np.minimum(1.0, side / FULL_SIZE), np.float64)


def inside_factor(boxes: NDArray[np.floating], width: int, height: int) -> NDArray[np.float64]:
    """Return the squared share (N,) of boxes (N, 4) that lies within a frame of width x height pixels."""
    whole = np.asarray(boxes, np.float64)
    seen = whole.copy()
    seen[:, 0::2] = np.clip(seen[:, 0::2], 0, width)
    seen[:, 1::2] = np.clip(seen[:, 1::2], 0, height)
    area = np.maximum(whole[:, 2:] - whole[:, :2], 1e-6).prod(axis=1)
    share = np.maximum(seen[:, 2:] - seen[:, :2], 0).prod(axis=1) / area
    return np.asarray(np.clip(share, 0, 1) ** 2, np.float64)


def pose_factor(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the pose factor (N,) of landmarks (N, 5, 2): 1 frontal, towards 0 in profile."""
    points = np.asarray(landmarks, np.float64).reshape(-1, 5, 2)
    eyes, mouth = points[:, :2].mean(axis=1), points[:, 3:].mean(axis=1)
    across, down = points[:, 1] - points[:, 0], mouth - eyes
    nose = points[:, 2] - eyes
    with np.errstate(divide="ignore", invalid="ignore"):
        # Solve nose = a * across + b * down: along the eyes it tells yaw, between eyes and mouth pitch.
        determinant = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
        yaw = (nose[:, 0] * down[:, 1] - nose[:, 1] * down[:, 0]) / determinant
        pitch = (across[:, 0] * nose[:, 1] - across[:, 1] * nose[:, 0]) / determinant
    factor = np.exp(-((yaw / 0.45) ** 2)) * np.exp(-(((pitch - FRONTAL_NOSE) / 0.45) ** 2))
    factor = np.where(np.isfinite(factor), factor, 0.0)
    return np.where(np.isfinite(points).all(axis=(1, 2)), factor, UNKNOWN_POSE)


def sharpness_factor(image: NDArray[np.uint8], box: NDArray[np.floating]) -> float:
    """Return the sharpness factor of the face in ``box`` of a uint8 RGB picture."""
    height, width = image.shape[:2]
    x1, y1 = max(0, int(box[0])), max(0, int(box[1]))
    x2, y2 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    if x2 - x1 < 3 or y2 - y1 < 3:
        return 0.0
    patch = image[y1:y2, x1:x2]
    grows = max(patch.shape[:2]) < FULL_SIZE
    method = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    grey = cv2.cvtColor(
        np.asarray(cv2.resize(patch, (FULL_SIZE, FULL_SIZE), interpolation=method), np.uint8), cv2.COLOR_RGB2GRAY
    )
    contrast = float(grey.var()) / USUAL_VARIANCE
    if contrast < 1e-4:
        return 0.0
    detail = float(cv2.Laplacian(grey, cv2.CV_32F).var()) / contrast
    return detail / (detail + HALF_SHARP)


class Qualities(NamedTuple):
    """Quality of the faces of one frame and two of its factors, (F,) each, 0 to 1."""

    value: NDArray[np.float32]
    pose: NDArray[np.float64]
    sharpness: NDArray[np.float64]


def measure_quality(
    image: NDArray[np.uint8], boxes: NDArray[np.floating], landmarks: NDArray[np.floating]
) -> Qualities:
    """Measure the faces of one uint8 RGB frame: boxes (F, 4), landmarks (F, 5, 2), NaN where absent, in pixels."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    height, width = image.shape[:2]
    sharpness, pose = np.array([sharpness_factor(image, box) for box in boxes], np.float64), pose_factor(landmarks)
    value = size_factor(boxes) * sharpness * pose * inside_factor(boxes, width, height)
    return Qualities(np.asarray(np.clip(value, 0, 1), np.float32), pose, sharpness)


def measured(image: NDArray[np.uint8], faces: Sequence[TrackedFace]) -> tuple[TrackedFace, ...]:
    """Return the faces of a frame (uint8 RGB (H, W, 3)) with what their crops are worth."""
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    found = measure_quality(image, boxes, np.array([face.landmarks for face in faces], np.float32).reshape(-1, 5, 2))
    numbers = zip(faces, *(values.tolist() for values in found), strict=True)
    return tuple(replace(face, quality=value, pose=pose, sharpness=sharp) for face, value, pose, sharp in numbers)
