"""Which frames are looked at: by time for running video, by segments for a whole clip."""

from __future__ import annotations

import math
import random

from streamfer.errors import ConfigError

# Matroska and FLV round times to milliseconds: a frame that much before its tick is the tick's frame.
_ROUNDING_SECONDS = 0.0006
_ROUNDING_TICKS = 0.1


class TimeSampler:
    """Chooses the first frame at or after each tick ``k / fps``, at most one frame for a tick.

    The choice depends only on frame times, so a sampler that joins late chooses what one that was there from the
    start chooses. Frame times may be early by the rounding of millisecond containers (0.6 ms, at most a
    tenth of a tick). Where the video is slower than ``fps`` ticks a second, every frame is chosen.

    >>> sampler = TimeSampler(10)
    >>> [sampler.tick(t) for t in (0.0, 0.04, 0.08, 0.12, 0.16, 0.2)]
    [0, None, None, 1, None, 2]
    """

    def __init__(self, fps: float) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise ConfigError(f"sampling rate {fps}: must be a positive number of frames a second")
        self.fps = fps
        self._slack = min(_ROUNDING_SECONDS * fps, _ROUNDING_TICKS)
        self._last: int | None = None

    def tick(self, seconds: float) -> int | None:
        """Return the number of the tick that a frame at ``seconds`` is chosen for, or None."""
        reached = math.floor(seconds * self.fps + self._slack)
        if self._last is None:
            # Whoever joins between two ticks cannot know whether an earlier frame served the tick.
            joined_on_tick = seconds * self.fps - reached <= self._slack
            self._last = reached
            return reached if joined_on_tick else None
        if reached <= self._last:
            return None
        self._last = reached
        return reached


def segment_centres(frames: int, segments: int = 16) -> list[int]:
    """Return DFER-CLIP's test sampling: the middle frame of each of ``segments`` equal parts.

    With at most ``segments`` frames: every frame, the last one repeated.

    Raises:
        ConfigError: there is no frame, or no segment.

    Source: DFER-CLIP, dataloader, test branch (``num_segments`` 16, ``duration`` 1).
    """
    _check(frames, segments)
    if frames <= segments:
        return _edge_padded(frames, segments)
    length = frames / segments
    return [int(length / 2 + length * segment) for segment in range(segments)]


def segment_random(frames: int, rng: random.Random, segments: int = 16) -> list[int]:
    """Return DFER-CLIP's training sampling: one random frame of each of ``segments`` parts of whole length.

    As published, the last ``frames % segments`` frames are never chosen. With fewer frames than segments:
    every frame, the last one repeated.

    Raises:
        ConfigError: there is no frame, or no segment.

    Source: DFER-CLIP, dataloader, train branch.
    """
    _check(frames, segments)
    length = frames // segments
    if length == 0:
        return _edge_padded(frames, segments)
    return [segment * length + rng.randrange(length) for segment in range(segments)]


def _edge_padded(frames: int, segments: int) -> list[int]:
    return [min(index, frames - 1) for index in range(segments)]


def _check(frames: int, segments: int) -> None:
    if frames < 1:
        raise ConfigError(f"a clip of {frames} frames cannot be sampled: it needs at least one frame")
    if segments < 1:
        raise ConfigError(f"{segments} segments: at least one is needed")
