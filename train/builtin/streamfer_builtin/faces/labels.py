"""Face labels of one picture, and how they follow the picture through an affine transform.

Boxes are ``[x1, y1, x2, y2]`` and landmarks ``[x, y]`` in pixels of the picture they belong to, float32; the five
landmarks are ordered as seen in the picture: left eye, right eye, nose tip, left and right mouth corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Picture = NDArray[np.uint8]

MIRRORED_LANDMARKS = (1, 0, 2, 4, 3)
"""Where each landmark goes when the picture is mirrored: the eyes and the mouth corners change places."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The faces of one picture.

    ``boxes`` is N x 4, ``landmarks`` N x 5 x 2. A face with ``ignored`` set is neither to be found nor a mistake to
    find (too small, or mostly hidden). ``precise`` is False where landmarks are only roughly known.
    """

    boxes: FloatArray
    landmarks: FloatArray
    ignored: BoolArray
    precise: BoolArray

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def none() -> Labels:
        """Labels of a picture without faces."""
        return Labels(
            np.zeros((0, 4), np.float32),
            np.zeros((0, 5, 2), np.float32),
            np.zeros(0, np.bool_),
            np.zeros(0, np.bool_),
        )

    @staticmethod
    def single(box: FloatArray, landmarks: FloatArray, *, ignored: bool = False, precise: bool = True) -> Labels:
        """Labels of a picture with one face: ``box`` has shape 4, ``landmarks`` 5 x 2."""
        return Labels(
            np.asarray(box, np.float32).reshape(1, 4),
            np.asarray(landmarks, np.float32).reshape(1, 5, 2),
            np.array([ignored]),
            np.array([precise]),
        )

    @staticmethod
    def joined(parts: list[Labels]) -> Labels:
        """All faces of several label sets that share one picture, in order."""
        if not parts:
            return Labels.none()
        return Labels(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
            np.concatenate([part.ignored for part in parts]),
            np.concatenate([part.precise for part in parts]),
        )

    def sizes(self) -> FloatArray:
        """Square root of each box's area in pixels, shape N."""
        sides = np.maximum(self.boxes[:, 2:] - self.boxes[:, :2], 0)
        return np.asarray(np.sqrt(sides[:, 0] * sides[:, 1]), np.float32)

    def transformed(self, matrix: FloatArray) -> Labels:
        """Labels after the 2 x 3 affine ``matrix`` (source to target pixels) moved the picture.

        Landmarks move exactly. A box stays axis-parallel: the ellipse it holds is moved and bounded again, which for
        a turned head is much closer to what detectors draw than the bounding box of the turned box.
        """
        linear, shift = matrix[:, :2].astype(np.float64), matrix[:, 2].astype(np.float64)
        landmarks = self.landmarks @ linear.T + shift
        if np.linalg.det(linear) < 0:
            landmarks = landmarks[:, MIRRORED_LANDMARKS]
        centres = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2 @ linear.T + shift
        halves = np.sqrt(((self.boxes[:, 2:] - self.boxes[:, :2]) / 2) ** 2 @ (linear**2).T)
        boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        return Labels(boxes.astype(np.float32), landmarks.astype(np.float32), self.ignored, self.precise)

    def shifted(self, x: float, y: float) -> Labels:
        """Labels of the picture after it was moved by (``x``, ``y``) pixels."""
        by = np.array([x, y], np.float32)
        return Labels(self.boxes + np.tile(by, 2), self.landmarks + by, self.ignored, self.precise)

    def framed(self, width: int, height: int, *, visible: float = 0.5, smallest: float = 10.0) -> Labels:
        """Labels as seen through a frame of ``width`` x ``height`` pixels.

        Boxes are clipped to the frame; faces wholly outside are dropped; faces of which less than ``visible`` of the
        area remains, or smaller than ``smallest`` pixels, become ignored.
        """
        limits = np.array([width, height, width, height], np.float32)
        clipped = np.clip(self.boxes, 0, limits)
        before = np.prod(np.maximum(self.boxes[:, 2:] - self.boxes[:, :2], 1e-6), axis=1)
        after = np.prod(np.maximum(clipped[:, 2:] - clipped[:, :2], 0), axis=1)
        inside = after > 0
        ignored = self.ignored | (after < visible * before) | (np.sqrt(after) < smallest)
        return Labels(clipped[inside], self.landmarks[inside], ignored[inside], self.precise[inside])


def similarity(
    centre: tuple[float, float], target: tuple[float, float], scale: float, degrees: float, *, mirror: bool = False
) -> FloatArray:
    """The 2 x 3 matrix that scales and turns about ``centre`` and puts it at ``target``.

    Positive ``degrees`` turn clockwise as seen (y points down); ``mirror`` flips left and right before the turn.
    """
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[cosine, -sine], [sine, cosine]])
    if mirror:
        linear = linear @ np.diag([-1.0, 1.0])
    shift = np.array(target) - linear @ np.array(centre)
    return np.concatenate([linear, shift[:, None]], axis=1).astype(np.float32)


def overlaps(boxes_a: FloatArray, boxes_b: FloatArray) -> FloatArray:
    """Intersection over union of every box of ``boxes_a`` (N x 4) with every one of ``boxes_b`` (M x 4): N x M."""
    upper = np.maximum(boxes_a[:, None, :2], boxes_b[None, :, :2])
    lower = np.minimum(boxes_a[:, None, 2:], boxes_b[None, :, 2:])
    common = np.prod(np.maximum(lower - upper, 0), axis=2)
    area_a = np.prod(np.maximum(boxes_a[:, 2:] - boxes_a[:, :2], 0), axis=1)
    area_b = np.prod(np.maximum(boxes_b[:, 2:] - boxes_b[:, :2], 0), axis=1)
    union = area_a[:, None] + area_b[None] - common
    return np.asarray(common / np.maximum(union, 1e-9), np.float32)
