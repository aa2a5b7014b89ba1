"""The value types of the faces room: what a detector finds, and what a tracker makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

#: Sampled frames back to which a track's faces still count when it is confirmed.
HORIZON = 8


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces of one frame, highest score first. Struct of arrays; N faces."""

    boxes: NDArray[np.float32]  #: (N, 4), x1 y1 x2 y2 in pixels of the frame; may reach beyond it
    scores: NDArray[np.float32]  #: (N,), 0 to 1
    #: (N, 5, 2), pixels: left eye, right eye, nose tip, left and right mouth corner as seen in the picture. NaN where
    #: the detector gives none.
    landmarks: NDArray[np.float32]
    left_out: int = 0  #: faces found beyond the cap and dropped

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        return cls(np.zeros((0, 4), np.float32), np.zeros((0,), np.float32), np.zeros((0, 5, 2), np.float32))

    def take(self, rows: NDArray[np.integer]) -> Detections:
        return Detections(self.boxes[rows], self.scores[rows], self.landmarks[rows], self.left_out)

    @classmethod
    def ranked(
        cls,
        boxes: NDArray[np.floating],
        scores: NDArray[np.floating],
        landmarks: NDArray[np.floating] | None,
        max_faces: int,
    ) -> Detections:
        """Sort by score, drop boxes without area or with numbers that are not finite, and apply the cap."""
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        scores = np.asarray(scores, np.float32).reshape(-1)
        points = np.full((len(boxes), 5, 2), np.nan, np.float32)
        if landmarks is not None:
            points = np.asarray(landmarks, np.float32).reshape(-1, 5, 2)
        usable = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
        usable &= (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
        order = np.flatnonzero(usable)
        order = order[np.argsort(-scores[order], kind="stable")]
        kept = order[:max_faces]
        return cls(boxes[kept], np.clip(scores[kept], 0, 1), points[kept], left_out=len(order) - len(kept))


@dataclass(frozen=True, slots=True)
class TrackedFace:
    """One face of one frame, the form in which it travels from detection to record."""

    #: Number of the track within its source and epoch. Above 0: a person, numbered in order of first appearance. Below
    #: 0: provisional, for a face that is not sure to be one yet.
    track: int
    index: int | None  #: row of the frame's detections; None where it was predicted on a frame without detection
    box: NDArray[np.float32]  #: (4,), x1 y1 x2 y2 in pixels
    score: float  #: of the detection, 0 to 1
    landmarks: NDArray[np.float32]  #: (5, 2) in pixels, NaN where absent
    quality: float = math.nan  #: 0 to 1, NaN until :func:`streamfer.faces.quality.measured` has looked
    pose: float = math.nan  #: a factor of the quality, likewise
    sharpness: float = math.nan  #: another

    @property
    def confirmed(self) -> bool:
        return self.track > 0

    @property
    def side(self) -> float:
        """Side of the box in pixels: the geometric mean of width and height."""
        width, height = self.box[2:] - self.box[:2]
        return math.sqrt(max(0.0, float(width)) * max(0.0, float(height)))

    def relative_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return x, y, width, height as fractions of a frame of ``width`` x ``height`` pixels."""
        left, top, right, bottom = (float(value) for value in self.box)
        return left / width, top / height, (right - left) / width, (bottom - top) / height

    def relative_landmarks(self, width: int, height: int) -> tuple[tuple[float, float], ...] | None:
        """Return the landmarks as fractions of a frame of this size; None where there are none."""
        if np.isnan(self.landmarks).any():
            return None
        return tuple((float(x) / width, float(y) / height) for x, y in self.landmarks)


@dataclass(frozen=True, slots=True)
class TrackedFrame:
    """What the tracker says of one sampled frame."""

    faces: tuple[TrackedFace, ...]  #: those that have a track, confirmed ones first, by number
    #: Provisional numbers that turned out to be others in this frame, in order: a track became a person, or a newcomer
    #: is somebody known. Faces of the last ``HORIZON`` frames that bore the first number of a pair are the second's, so
    #: that nothing is lost of a track's start.
    renamed: tuple[tuple[int, int], ...] = ()


def rename(faces: Sequence[TrackedFace], old: int, new: int) -> tuple[TrackedFace, ...]:
    """Return one frame's faces with ``old`` under its new number; a person seen twice in a frame counts once."""
    known = any(face.track == new for face in faces)
    return tuple(
        replace(face, track=new) if face.track == old else face for face in faces if not (known and face.track == old)
    )


def settle(frames: Iterable[TrackedFrame]) -> list[tuple[TrackedFace, ...]]:
    """Return the confirmed faces of each frame of a whole track record, when it is known who was who."""
    settled: list[tuple[TrackedFace, ...]] = []
    for frame in frames:
        for old, new in frame.renamed:
            for place in range(max(0, len(settled) - HORIZON), len(settled)):
                settled[place] = rename(settled[place], old, new)
        settled.append(frame.faces)
    return [tuple(face for face in faces if face.confirmed) for faces in settled]


def overlap(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return which share of each of ``boxes`` (N, 4) lies in each of ``others`` (M, 4): (N, M)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-12)
    return np.asarray(np.maximum(high - low, 0).prod(axis=2) / areas[:, None], np.float32)


@runtime_checkable
class Detector(Protocol):
    """A face detector."""

    name: str  #: registered name with version, as ``doctor`` and the records show it
    provider: str  #: what runs it, e.g. ``CPUExecutionProvider`` or ``skimage``
    licence: str  #: of the weights, in plain words

    def detect(self, images: Sequence[NDArray[np.uint8]], *, still: bool = False) -> list[Detections]:
        """Find the faces of each image (uint8 RGB, (H, W, 3), any sizes), of a still more closely; in order."""

    def detect_near(
        self, image: NDArray[np.uint8], expected: NDArray[np.float32], parts: Sequence[tuple[int, int, int, int]] = ()
    ) -> Detections | None:
        """Find the faces near boxes (N, 4) of a frame and in parts of it; None where the whole takes less time."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a tracker knows of a sampled frame before its faces are looked for."""

    time: float  #: of the frame, seconds since the first one
    boxes: NDArray[np.float32]  #: (N, 4), where the faces of its open tracks should be, pixels
    seen: NDArray[np.bool_]  #: (N,), whether they were there in the last frame that was searched; others may come back
    doubtful: bool  #: one of those seen is not sure to be a person yet
    cut: bool  #: a new scene begins, of which nothing is known
    thumbnail: NDArray[np.float32] | None  #: (27, 48), the frame in grey; None where nothing was seen yet
