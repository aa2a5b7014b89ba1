"""One epoch of one source behind the encoder: its rings, its windows, and what closes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from streamfer.faces.detections import TrackedFace
from streamfer.pipeline.items import AnalysedFrame, FrameFacts
from streamfer.pipeline.ring import FeatureRing, Sighting
from streamfer.pipeline.windows import WindowFill, WindowGrid, fill_window
from streamfer.video.frames import TimeOrigin, VideoInfo


@dataclass(frozen=True, slots=True)
class ClipJob:
    """A window of one track that is ready for the classifier.

    Attributes:
        source_id, epoch, info, time_base, time_origin: where it comes from.
        track: number of the track.
        features: float32 (T, D) on the model's device.
        filling: which ticks stand in the slots, and how many are real.
        first, last: facts of the first and last analysed frame of the window.
        frames_sampled: analysed frames in the window.
        sightings: where the face was, one for each real tick, oldest first.
        sighting_pts: time of each sighting, in the time base.
    """

    source_id: str
    epoch: int
    info: VideoInfo
    time_base: Fraction
    time_origin: TimeOrigin
    track: int
    features: torch.Tensor = field(repr=False)
    filling: WindowFill
    first: FrameFacts
    last: FrameFacts
    frames_sampled: int
    sightings: tuple[Sighting, ...]
    sighting_pts: tuple[int, ...]


class EpochSession:
    """Collects the features of an epoch's tracks and says which windows are ready.

    State is bounded by the window: features and frame facts older than every open window are dropped.
    """

    def __init__(
        self,
        source_id: str,
        epoch: int,
        info: VideoInfo,
        time_base: Fraction,
        time_origin: TimeOrigin,
        grid: WindowGrid,
    ) -> None:
        self.info = info
        self.source_id = source_id
        self.epoch = epoch
        self._time_base = time_base
        self._time_origin: TimeOrigin = time_origin
        self._grid = grid
        self._rings: dict[int, FeatureRing] = {}
        self._frames: deque[tuple[int, FrameFacts]] = deque()
        self._closed = 0
        self.last_seconds = 0.0

    def add(self, frame: AnalysedFrame, features: torch.Tensor, actions: Sequence[tuple[float, ...]]) -> list[ClipJob]:
        """Take one analysed frame with the features of its crops; return the windows that it completes.

        Args:
            frame: the frame; one without a tick only moves the time.
            features: float32 (F, D), one for each of the frame's crops.
            actions: intensities of the action units, one tuple for each of the frame's crops.
        """
        self.last_seconds = frame.facts.seconds
        past = len(frame.late)
        portraits = frame.portraits or [None] * len(features)
        late = [(late.tick, late.face) for late in frame.late]
        self._remember(late, features[:past], actions[:past], portraits[:past])
        if frame.tick is None:
            return []
        self._frames.append((frame.tick, frame.facts))
        now = [(frame.tick, face) for face in frame.faces]
        self._remember(now, features[past:], actions[past:], portraits[past:])
        return self._close(self._grid.complete_through(frame.tick))

    def finish(self, *, flush: bool) -> list[ClipJob]:
        """End the epoch.

        Args:
            flush: also label the last, shorter window where no complete one covered it; a source shorter than
                a window is labelled from whatever it showed. Without it (the run was stopped) only complete
                windows count.
        """
        if not flush or not self._frames:
            return []
        stop = self._frames[-1][0] + 1
        jobs: list[ClipJob] = []
        for track in list(self._rings):
            jobs += self._last_window(track, stop)
        self._rings.clear()
        return jobs

    def _remember(
        self,
        faces: Sequence[tuple[int, TrackedFace]],
        features: torch.Tensor,
        actions: Sequence[tuple[float, ...]],
        portraits: Sequence[NDArray[np.uint8] | None],
    ) -> None:
        for (tick, face), feature, intensities, portrait in zip(faces, features, actions, portraits, strict=True):
            if tick >= self._grid.start(self._closed):
                self._rings.setdefault(face.track, FeatureRing()).add(
                    Sighting(tick, self.relative_box(face.box), face.score, face.quality, intensities, portrait),
                    feature,
                )

    def _close(self, complete: int) -> list[ClipJob]:
        jobs: list[ClipJob] = []
        for number in range(self._closed, complete):
            for track in sorted(self._rings):
                jobs += self._window(track, number)
        if complete > self._closed:
            self._closed = complete
            self._forget(self._grid.start(complete) if self._grid.stride else self._grid.end(0))
        return jobs

    def _last_window(self, track: int, stop: int) -> list[ClipJob]:
        ring = self._rings[track]
        unseen = [tick for tick in ring.ticks if tick >= ring.labelled_before]
        if not unseen:
            return []
        # The first open window reaches furthest back: it holds every tick that is not labelled yet.
        return self._window(track, self._closed, stop=stop, lenient=self._closed == 0)

    def _window(self, track: int, number: int, *, stop: int | None = None, lenient: bool = False) -> list[ClipJob]:
        ring = self._rings[track]
        start, end = self._grid.start(number), self._grid.end(number)
        analysed = [tick for tick, _ in self._frames]
        filling = fill_window(self._grid, number, ring.ticks, analysed, stop=stop, lenient=lenient)
        if filling.reason != "ok":
            return []
        inside = [facts for tick, facts in self._frames if start <= tick < end]
        pts = {tick: facts.pts for tick, facts in self._frames}
        sightings = tuple(sighting for sighting in ring if start <= sighting.tick < end)
        ring.mark_labelled(end)
        return [
            ClipJob(
                source_id=self.source_id,
                epoch=self.epoch,
                info=self.info,
                time_base=self._time_base,
                time_origin=self._time_origin,
                track=track,
                features=ring.gather(filling.ticks),
                filling=filling,
                first=inside[0],
                last=inside[-1],
                frames_sampled=len(inside),
                sightings=sightings,
                sighting_pts=tuple(pts[sighting.tick] for sighting in sightings),
            )
        ]

    def _forget(self, tick: int) -> None:
        while self._frames and self._frames[0][0] < tick:
            self._frames.popleft()
        for track, ring in list(self._rings.items()):
            ring.forget_before(tick)
            if not ring:
                del self._rings[track]

    def relative_box(self, box: NDArray[np.float32]) -> tuple[float, float, float, float]:
        """Return x, y, width, height as fractions of the frame for a box (4,) in corner pixels."""
        left, top, right, bottom = (float(value) for value in box)
        width, height = self.info.width, self.info.height
        return left / width, top / height, (right - left) / width, (bottom - top) / height
