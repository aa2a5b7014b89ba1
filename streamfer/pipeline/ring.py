"""The feature ring: what a track keeps of its recent past. Features, never pixels, so memory stays small."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from streamfer.errors import InternalError


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the ring remembers of a track at one tick, beside its feature.

    Attributes:
        tick: analysed position within the epoch.
        box: x, y, width, height as fractions of the frame.
        score: detection score, 0 to 1.
        quality: crop quality, 0 to 1.
    """

    tick: int
    box: tuple[float, float, float, float]
    score: float
    quality: float


class FeatureRing:
    """Features of one track by tick, oldest first. State: at most the ticks that a window can still need."""

    def __init__(self) -> None:
        self._sightings: deque[Sighting] = deque()
        self._features: deque[torch.Tensor] = deque()
        self._labelled_before = 0

    def __len__(self) -> int:
        return len(self._sightings)

    def __iter__(self) -> Iterator[Sighting]:
        return iter(self._sightings)

    @property
    def ticks(self) -> list[int]:
        """Ticks with a feature, ascending."""
        return [sighting.tick for sighting in self._sightings]

    @property
    def labelled_before(self) -> int:
        """Tick after the last one that a labelled window of this track covered; 0 before the first."""
        return self._labelled_before

    def append(self, sighting: Sighting, feature: torch.Tensor) -> None:
        """Add the feature of the next tick.

        Args:
            sighting: where and how well the face was seen; its tick must be later than all before.
            feature: float32 (D,) on the model's device.
        """
        if self._sightings and sighting.tick <= self._sightings[-1].tick:
            raise InternalError(f"ring: tick {sighting.tick} after tick {self._sightings[-1].tick}")
        self._sightings.append(sighting)
        self._features.append(feature)

    def forget_before(self, tick: int) -> None:
        """Drop everything earlier than ``tick``."""
        while self._sightings and self._sightings[0].tick < tick:
            self._sightings.popleft()
            self._features.popleft()

    def gather(self, ticks: Sequence[int]) -> torch.Tensor:
        """Return the features at ``ticks``, repeats allowed: float32 (T, D)."""
        position = {sighting.tick: index for index, sighting in enumerate(self._sightings)}
        return torch.stack([self._features[position[tick]] for tick in ticks])

    def mark_labelled(self, before: int) -> None:
        """Remember that every tick before ``before`` is covered by a labelled window."""
        self._labelled_before = max(self._labelled_before, before)
