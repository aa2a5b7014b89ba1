"""Which decoded frames are analysed: by time for windows, at segment centres for a whole clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from streamfer.video.sampling import TimeSampler, segment_centres


@dataclass(frozen=True, slots=True)
class Pick:
    """A frame was chosen; ``tick`` is its place in the windows, or None when it only helps tracking."""

    tick: int | None


class Selector(Protocol):
    """Chooses frames of one epoch, in order."""

    def choose(self, seconds: float, index: int) -> Pick | None:
        """Say whether the frame at ``seconds`` with number ``index`` is analysed."""


class TimeSelector:
    """Chooses frames at a steady rate; their ticks feed sliding windows."""

    def __init__(self, fps: float) -> None:
        self._sampler = TimeSampler(fps)

    def choose(self, seconds: float, index: int) -> Pick | None:  # noqa: ARG002 (protocol)
        """Choose the first frame at or after each tick."""
        tick = self._sampler.tick(seconds)
        return None if tick is None else Pick(tick)


class WholeClipSelector:
    """Chooses DFER-CLIP's segment centres of a clip of known length, and steady frames between for tracking."""

    def __init__(self, total_frames: int, segments: int, tracking_fps: float) -> None:
        centres = sorted(set(segment_centres(total_frames, segments)))
        self._tick_of = {index: tick for tick, index in enumerate(centres)}
        self._sampler = TimeSampler(tracking_fps)

    def choose(self, seconds: float, index: int) -> Pick | None:
        """Choose segment centres (with their tick) and, between them, frames at the tracking rate."""
        steady = self._sampler.tick(seconds) is not None
        tick = self._tick_of.get(index)
        return Pick(tick) if steady or tick is not None else None
