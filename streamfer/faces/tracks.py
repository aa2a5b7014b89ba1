"""One person's track while it lives: where the face was, how it moves, what it looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfer.faces.appearance import blend, similarity

#: How fast velocity and appearance follow new observations.
VELOCITY_RATE, TEMPLATE_RATE, FAITH_RATE = 0.5, 0.15, 0.1
#: Less alike than this is never the same person.
NEVER_ALIKE = 0.6
#: Velocity is believed for this long; a face that is away longer has likely stopped or turned.
MOTION_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Sight:
    """One detection as a track remembers it."""

    time: float  #: seconds since the first sample
    sample: int  #: count of sampled frames before it
    box: NDArray[np.float32]  #: (4,), pixels
    landmarks: NDArray[np.float32]  #: (5, 2), pixels, NaN where absent
    score: float  #: 0 to 1
    look: NDArray[np.float32] | None  #: descriptor (P, D); None when tracking goes by boxes alone


class Track:
    """Mutable state of one track; O(1) memory."""

    def __init__(self, sight: Sight, *, serial: int, detected_frames: int) -> None:
        self.serial = serial  #: count of tracks up to this one
        self.number = 0  #: public number from 1; 0 while the track is tentative
        self.library_id = -1  #: in the association library; -1 where it has none
        self.first_sample = sight.sample
        self.first_detected = self.last_detected = detected_frames
        self.hits = 1  #: detections that belong to the track
        self.evidence = 0.0  #: what they speak for a face, summed (:class:`~streamfer.faces.tracking.TrackerSettings`)
        self.last = sight
        self.velocity: NDArray[np.float64] = np.zeros(2)  #: of the box's centre, pixels a second
        self.template = sight.look  #: descriptor (P, D) of the person so far
        self._usual, self._strays = 0.92, 0.03

    @property
    def name(self) -> int:
        """Number by which faces are known: the public one, or below 0 a provisional one."""
        return self.number or -self.serial

    @property
    def size(self) -> float:
        return side(self.last.box)

    @property
    def centre(self) -> NDArray[np.float64]:
        return centre(self.last.box)

    def shift(self, time: float) -> NDArray[np.float32]:
        """Return how far the face has likely moved since it was seen, pixels (2,)."""
        gap = min(max(time - self.last.time, 0.0), MOTION_SECONDS)
        return np.asarray(self.velocity * gap, np.float32)

    def observe(self, sight: Sight, *, detected_frames: int) -> None:
        gap = max(sight.time - self.last.time, 1e-6)
        step = (centre(sight.box) - self.centre) / gap
        if gap <= MOTION_SECONDS:
            self.velocity = (1 - VELOCITY_RATE) * self.velocity + VELOCITY_RATE * step
        else:
            # After an absence the straight line between two places says little about the present speed.
            self.velocity = np.zeros(2)
        self.last, self.last_detected = sight, detected_frames
        self.hits += 1
        if sight.look is not None and self.template is not None:
            alike = float(similarity(self.template[None], sight.look[None])[0, 0])
            self._usual += FAITH_RATE * (alike - self._usual)
            self._strays += FAITH_RATE * (abs(alike - self._usual) - self._strays)
            rate = max(TEMPLATE_RATE, 1 / (self.hits + 1))
            self.template = blend(self.template, sight.look, rate)

    @property
    def least_alike(self) -> float:
        """Return the similarity below which this person was hardly ever seen: some change, others do not."""
        return max(NEVER_ALIKE, self._usual - 3 * self._strays)


def side(box: NDArray[np.floating]) -> float:
    """Return the side of a box in pixels: the geometric mean of width and height."""
    return float(np.sqrt(max(1e-6, float(np.prod(box[2:] - box[:2])))))


def centre(box: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the centre (2,) of a box in pixels."""
    return np.asarray((box[:2] + box[2:]) / 2, np.float64)
