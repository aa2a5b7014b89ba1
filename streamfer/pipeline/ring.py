"""The feature ring: what a track keeps of its recent past. Features, never frames, so memory stays small."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from streamfer.faces.detections import TrackedFace
from streamfer.pipeline.items import FrameFacts


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the ring remembers of a track at one tick, beside its feature."""

    tick: int  #: analysed position within the epoch
    frame: FrameFacts
    face: TrackedFace  #: where it was, and how well it was seen
    actions: tuple[float, ...] = ()  #: intensities of the model's action units, in its order; empty where it reads none
    #: uint8 RGB (P, P, 3), the face as an observer of clips wants it; None where none was kept
    portrait: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Box of the face: x, y, width, height as fractions of its frame."""
        return self.face.relative_box(self.frame.width, self.frame.height)


class FeatureRing:
    """Features of one track by tick, oldest first. State: at most the ticks that a window can still need."""

    def __init__(self) -> None:
        # Lists of a few dozen entries: what a window holds.
        self.ticks: list[int] = []  #: those with a feature, ascending
        self._sightings: list[Sighting] = []
        self._features: list[torch.Tensor] = []
        #: tick after the last one that a labelled window of this track covered; 0 before the first
        self.labelled_before = 0

    def __len__(self) -> int:
        return len(self._sightings)

    def __iter__(self) -> Iterator[Sighting]:
        return iter(self._sightings)

    def add(self, sighting: Sighting, feature: torch.Tensor) -> bool:
        """Take the feature of one tick, float32 (D,) on the model's device; the newest as a rule.

        Returns False when the tick has a feature already: the first one stays (a tracker may learn only later that two
        of its tracks are one person, who was then seen twice in a frame).
        """
        place = bisect_left(self.ticks, sighting.tick)
        if place < len(self.ticks) and self.ticks[place] == sighting.tick:
            return False
        self.ticks.insert(place, sighting.tick)
        self._sightings.insert(place, sighting)
        self._features.insert(place, feature)
        return True

    def take_over(self, other: FeatureRing) -> None:
        """Take what another track has seen, which turned out to be this one."""
        for sighting, feature in zip(other._sightings, other._features, strict=True):
            self.add(sighting, feature)

    def forget_before(self, tick: int) -> None:
        old = bisect_left(self.ticks, tick)
        del self.ticks[:old], self._sightings[:old], self._features[:old]

    def gather(self, ticks: Sequence[int]) -> torch.Tensor:
        """Return the features at ``ticks``, repeats allowed: float32 (T, D)."""
        return torch.stack([self._features[bisect_left(self.ticks, tick)] for tick in ticks])

    def mark_labelled(self, before: int) -> None:
        """Remember that every tick before ``before`` is covered by a labelled window."""
        self.labelled_before = max(self.labelled_before, before)
