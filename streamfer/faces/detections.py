"""The value types of the faces room: what a detector finds, and what a tracker makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces of one frame, highest score first. Struct of arrays; N faces.

    Attributes:
        boxes: float32 (N, 4), x1 y1 x2 y2 in pixels of the frame; may reach beyond it.
        scores: float32 (N,), 0 to 1.
        landmarks: float32 (N, 5, 2), pixels: left eye, right eye, nose tip, left and right mouth corner as
            seen in the picture. NaN where the detector gives none.
        left_out: faces found beyond the cap and dropped.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        """Return no faces."""
        return cls(np.zeros((0, 4), np.float32), np.zeros((0,), np.float32), np.zeros((0, 5, 2), np.float32))

    @classmethod
    def ranked(
        cls,
        boxes: NDArray[np.floating],
        scores: NDArray[np.floating],
        landmarks: NDArray[np.floating] | None,
        max_faces: int,
    ) -> Detections:
        """Sort by score, drop boxes without area or with numbers that are not finite, and apply the cap.

        Args:
            boxes: (N, 4), x1 y1 x2 y2 in pixels.
            scores: (N,).
            landmarks: (N, 5, 2) in pixels, or ``None`` where the detector gives none.
            max_faces: at most so many faces are kept; ``left_out`` counts the others.
        """
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
    """One face of one frame with the id of the person's track.

    Attributes:
        track: number of the track within its source and epoch, from 1, in order of first appearance.
        box: float32 (4,), x1 y1 x2 y2 in pixels.
        score: detection score, 0 to 1.
        landmarks: float32 (5, 2) in pixels, NaN where absent.
        quality: 0 to 1, see :mod:`streamfer.faces.quality`.
    """

    track: int
    box: NDArray[np.float32]
    score: float
    landmarks: NDArray[np.float32]
    quality: float


@dataclass(frozen=True, slots=True)
class EarlierFace:
    """A face of an earlier frame whose track was confirmed only now.

    Attributes:
        samples_ago: how many sampled frames back it was seen, from 1 (the frame before) to ``Tracker.horizon``.
        face: the face as it was seen then, with its track's number.
    """

    samples_ago: int
    face: TrackedFace


@dataclass(frozen=True, slots=True)
class TrackedFrame:
    """What the tracker says of one sampled frame.

    Attributes:
        faces: faces seen in this frame that belong to a confirmed track, by track number.
        ended: numbers of the tracks that are over and will not come back.
        cut: the tracker took this frame for the first of a new scene; ``ended`` then lists every open track.
        confirmed_earlier: the first faces of tracks confirmed in this frame, oldest first, so that nothing is
            lost of a track's start. Whoever wants them keeps the last ``Tracker.horizon`` sampled frames.
    """

    faces: tuple[TrackedFace, ...]
    ended: tuple[int, ...] = ()
    cut: bool = False
    confirmed_earlier: tuple[EarlierFace, ...] = ()


@runtime_checkable
class Detector(Protocol):
    """A face detector."""

    @property
    def name(self) -> str:
        """Registered name with version, as ``doctor`` and the records show it."""

    @property
    def provider(self) -> str:
        """What runs it, e.g. ``CPUExecutionProvider`` or ``skimage``."""

    @property
    def licence(self) -> str:
        """Licence of the weights in plain words."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find the faces of each image (uint8 RGB, (H, W, 3), any sizes); one result an image, in order."""


@runtime_checkable
class Tracker(Protocol):
    """Joins detections of consecutive sampled frames of one source and epoch into tracks."""

    @property
    def horizon(self) -> int:
        """Return how many sampled frames back ``confirmed_earlier`` may reach; 0 where it stays empty."""

    def update(self, image: NDArray[np.uint8], detections: Detections | None) -> TrackedFrame:
        """Take the next sampled frame; ``None`` means detection was skipped on it (predict only)."""

    def finish(self) -> tuple[int, ...]:
        """Return the tracks still open; the tracker is spent afterwards."""
