"""What every detector shares: the whole frame at the size that it needs, or the places where faces are expected.

Expected places are cut out as squares, brought to one size and laid out on one small picture, so that any network
searches all of them in one pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.detections import Detections, overlap
from streamfer.faces.images import DetectionSize, as_rgb, resize_by

#: Boxes (N, 4) as x1 y1 x2 y2, scores (N,), landmarks (N, 5, 2) or None; pixels of the picture that was searched.
Found = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating] | None]
#: The same, float32, landmarks NaN where there are none.
Faces = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
#: A part of a frame: x1 y1 x2 y2 in whole pixels.
Part = tuple[int, int, int, int]

#: Side of the square around an expected face, in units of the face, where a detector states none of its own.
REACH = 2.5
#: Side of a place on the small picture, likewise, and of the black border on each of its sides; pixels.
TILE, BORDER = 128, 4
#: Boxes that overlap by more than this are one face (SCRFD's authors' value).
SAME_FACE = 0.4
#: Boxes that lie in each other to this share say the same of a face: the mean of their landmarks scatters less.
ALIKE = 0.75
#: A face that reaches so near to the side of its place, in pixels of the small picture, is cut off there.
CUT_OFF = 1.0
#: A picture is searched again, so many times smaller, for faces that fill more of it than a network has learnt; it has
#: space for one where its sides are so many times as long as such a face's.
COARSE, SPACE = 3, 1.5
#: Places are worth less than the whole frame beyond this share of its pixels.
WORTH = 0.6


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """How faces are to be looked for; :func:`streamfer.faces.load_detector` says what each is."""

    threshold: float | None
    size: DetectionSize
    max_faces: int
    threads: int
    whole_threads: int
    provider: str
    for_tracking: bool

    def least_score(self, usual: float, tracking: float) -> float:
        """Return the score from which a box counts: what was asked for, or what a network has for its use."""
        stated = tracking if self.for_tracking else usual
        return stated if self.threshold is None else self.threshold


class Finder(ABC):
    """A face detector, but for the search within one picture of its own size."""

    tile, reach, worth = TILE, REACH, WORTH
    #: Shorter side of a face, in pixels of what is searched, from which it is found better at the coarse scale.
    large = math.inf

    def __init__(self, name: str, provider: str, licence: str, size: DetectionSize, max_faces: int) -> None:
        self.name, self.provider, self.licence = name, provider, licence
        self._size, self._max_faces = size, max_faces

    @abstractmethod
    def _find(self, picture: NDArray[np.uint8]) -> Found:
        """Search a picture (uint8 RGB, (H, W, 3), neither side 0) as it is."""

    def _find_still(self, picture: NDArray[np.uint8]) -> Found:
        """Search a photograph; a detector may believe more there than in a frame that others follow."""
        return self._find(picture)

    def _find_expected(self, picture: NDArray[np.uint8]) -> Found:
        """Search places to which tracks lead, laid out on a picture; a detector may believe more there."""
        return self._find(picture)

    def _shrink(self, image: NDArray[np.uint8], *, still: bool) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        """Return a frame at the size that is searched, and the factors (x, y) that lead there."""
        return self._size.resize(image, still=still)

    def detect(self, images: Sequence[NDArray[np.uint8]], *, still: bool = False) -> list[Detections]:
        """Find the faces of each image (uint8 RGB, (H, W, 3), any sizes), of a still more closely; in order."""
        return [self._whole(as_rgb(image), still=still) for image in images]

    def detect_near(
        self, image: NDArray[np.uint8], expected: NDArray[np.float32], parts: Sequence[Part] = ()
    ) -> Detections | None:
        """Find the faces near expected ones and in parts, or return None where the whole frame takes less time.

        Parts are searched as the whole frame would be, each for the faces that lie in it altogether.
        """
        image = as_rgb(image)
        columns, rows = grid_of(len(expected))
        scale = self._size.scale(*image.shape[:2]) if image.size else 0.0
        beside = sum((right - left) * (bottom - top) for left, top, right, bottom in parts)
        if columns * rows * self.tile**2 + beside * scale**2 > self.worth * image.shape[0] * image.shape[1] * scale**2:
            return None
        found = [self._near(image, squares_around(expected, self.reach))] if len(expected) else []
        found += [self._part(image, part, scale) for part in parts]
        if not found:
            return Detections.empty()
        boxes, scores, points = (np.concatenate(values) for values in zip(*found, strict=True))
        return Detections.ranked(*merged(boxes, scores, points), self._max_faces)

    def _near(self, image: NDArray[np.uint8], squares: NDArray[np.float32]) -> Faces:
        """Return the faces whose centres lie in squares (N, 3) of a frame, without those that a side cuts off."""
        boxes, scores, points = _as_arrays(self._find_expected(lay_out(image, squares, self.tile)))
        columns, _ = grid_of(len(squares))
        # A face belongs to the place that holds its centre.
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        across, down = (middle // self.tile).astype(int).T
        place = down * columns + across
        inside = (across >= 0) & (across < columns) & (down >= 0) & (place < len(squares)) & (place >= 0)
        boxes, scores, points, place = boxes[inside], scores[inside], points[inside], place[inside]
        corner = np.stack([place % columns, place // columns], axis=1) * self.tile + BORDER
        squares = squares[place]
        zoom = (squares[:, 2] / (self.tile - 2 * BORDER))[:, None]
        boxes = (boxes - np.tile(corner, 2)) * zoom + np.tile(squares[:, :2], 2)
        points = (points - corner[:, None]) * zoom[:, None] + squares[:, None, :2]
        kept = _not_cut(boxes, squares[:, :2], squares[:, :2] + squares[:, 2:], CUT_OFF * zoom, image)
        return _as_arrays((boxes[kept], scores[kept], points[kept]))

    def _part(self, image: NDArray[np.uint8], part: Part, scale: float) -> Faces:
        """Return the faces in a part of a frame, without those that one of its sides cuts off."""
        left, top, right, bottom = part
        small, factors = resize_by(image[top:bottom, left:right], scale)
        boxes, scores, points = self._at_scales(np.ascontiguousarray(small), self._find)
        by, corner = np.array(factors, np.float32), np.array([left, top], np.float32)
        boxes = np.asarray(boxes / np.tile(by, 2) + np.tile(corner, 2), np.float32)
        points = np.asarray(points / by + corner, np.float32)
        kept = _not_cut(boxes, corner, np.array([right, bottom], np.float32), CUT_OFF / by, image)
        return _as_arrays((boxes[kept], scores[kept], points[kept]))

    def _whole(self, image: NDArray[np.uint8], *, still: bool) -> Detections:
        if image.size == 0:
            return Detections.empty()
        small, factors = self._shrink(image, still=still)
        boxes, scores, points = self._at_scales(small, self._find_still if still else self._find)
        by = np.array(factors, np.float32)
        return Detections.ranked(np.asarray(boxes / np.tile(by, 2), np.float32), scores, points / by, self._max_faces)

    def _at_scales(self, picture: NDArray[np.uint8], find: Callable[[NDArray[np.uint8]], Found]) -> Faces:
        """Search a picture as it is, and again at the coarse scale for what is large for the network."""
        boxes, scores, points = _as_arrays(find(picture))
        if min(picture.shape[:2]) < SPACE * self.large:
            return boxes, scores, points
        height, width = picture.shape[0] // COARSE, picture.shape[1] // COARSE
        whole = picture[: COARSE * height, : COARSE * width]  # areas of whole pixels are quick
        small = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        more, their_scores, their_points = self._at_scales(small, find)
        more, their_points = COARSE * more, COARSE * their_points
        large = (more[:, 2:] - more[:, :2]).min(axis=1) >= self.large
        if not large.any():
            return boxes, scores, points
        boxes, scores = np.concatenate([boxes, more[large]]), np.concatenate([scores, their_scores[large]])
        return _as_arrays(merged(boxes, scores, np.concatenate([points, their_points[large]])))


def merged(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    points: NDArray[np.floating] | None,
    same: float = SAME_FACE,
) -> Found:
    """Return the best of boxes that overlap by more than ``same``, with the mean landmarks of all that are alike."""
    spans = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    kept = np.asarray(cv2.dnn.NMSBoxes(spans.tolist(), scores.tolist(), 0.0, same), np.int64).reshape(-1)
    best = boxes[kept]
    if points is None:
        return best, scores[kept], None
    weights = np.where(np.minimum(overlap(best, boxes), overlap(boxes, best).T) >= ALIKE, scores**2, 0)
    weights[np.arange(len(kept)), kept] += 1e-6  # a box without an area is not even like itself
    means = weights @ points.reshape(len(points), 10) / weights.sum(axis=1, keepdims=True)
    return best, scores[kept], means.reshape(-1, 5, 2)


def grid_of(count: int) -> tuple[int, int]:
    """Return columns and rows of a nearly square grid that holds so many places."""
    columns = math.ceil(math.sqrt(count))
    return columns, math.ceil(count / max(1, columns))


def squares_around(boxes: NDArray[np.float32], reach: float = REACH) -> NDArray[np.float32]:
    """Return the squares (N, 3) that are searched for faces expected in boxes (N, 4): x, y and side, pixels."""
    spans = boxes[:, 2:] - boxes[:, :2]
    side = reach * np.sqrt(np.maximum(spans[:, 0] * spans[:, 1], 1.0))
    return np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2 - side[:, None] / 2, side]).astype(np.float32)


def lay_out(image: NDArray[np.uint8], squares: NDArray[np.float32], tile: int = TILE) -> NDArray[np.uint8]:
    """Return squares of a frame side by side on one picture, black between them and beyond the frame."""
    columns, rows = grid_of(len(squares))
    canvas = np.zeros((rows * tile, columns * tile, 3), np.uint8)
    inner = tile - 2 * BORDER
    for place, (left, top, side) in enumerate(squares):
        x, y = place % columns * tile + BORDER, place // columns * tile + BORDER
        # Only what lies within the frame is resized; smoothing first keeps large faces free of aliases.
        x1, y1 = max(0, math.floor(left)), max(0, math.floor(top))
        x2, y2 = min(image.shape[1], math.ceil(left + side)), min(image.shape[0], math.ceil(top + side))
        if x2 <= x1 or y2 <= y1:
            continue
        scale = inner / side
        # To a half first, which is several times as quick as areas of other sizes.
        step = 2 if scale < 0.25 and min(x2 - x1, y2 - y1) > 1 else 1
        x2, y2 = x2 - (x2 - x1) % step, y2 - (y2 - y1) % step
        part = image[y1:y2, x1:x2]
        for factor in ([0.5] if step > 1 else []) + ([2 * step * scale] if step * scale < 0.5 else []):
            size = (max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor)))
            part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
        fx, fy = scale * (x2 - x1) / part.shape[1], scale * (y2 - y1) / part.shape[0]
        matrix = np.array(
            [[fx, 0, (x1 - left) * scale + fx / 2 - 0.5], [0, fy, (y1 - top) * scale + fy / 2 - 0.5]], np.float64
        )
        canvas[y : y + inner, x : x + inner] = cv2.warpAffine(part, matrix, (inner, inner), flags=cv2.INTER_LINEAR)
    return canvas


def _as_arrays(found: Found) -> Faces:
    boxes, scores, points = found
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    points = np.full((len(boxes), 5, 2), np.nan, np.float32) if points is None else np.asarray(points, np.float32)
    return boxes, np.asarray(scores, np.float32), points


def _not_cut(
    boxes: NDArray[np.floating],
    low: NDArray[np.floating],
    high: NDArray[np.floating],
    margin: NDArray[np.floating],
    image: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """Tell which boxes (N, 4) the sides of their place, from ``low`` to ``high``, do not cut within the frame."""
    frame = np.array([image.shape[1], image.shape[0]], np.float32)
    cut = (boxes[:, :2] < low + margin) & (low > 0) | (boxes[:, 2:] > high - margin) & (high < frame)
    return np.asarray(~cut.any(axis=1))
