"""One epoch of one source behind the encoder: its rings, its windows, and what closes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from streamfer.faces.detections import HORIZON, TrackedFace, rename
from streamfer.pipeline.events import FaceRow, FrameFaces
from streamfer.pipeline.items import AnalysedFrame, EpochOpened, FrameFacts
from streamfer.pipeline.ring import FeatureRing, Sighting
from streamfer.pipeline.windows import WindowGrid, fill_window


@dataclass(frozen=True, slots=True)
class ClipJob:
    """A window of one track that is ready for the classifier."""

    opened: EpochOpened
    track: int
    features: torch.Tensor = field(repr=False)  #: float32 (T, D) on the model's device
    ticks: tuple[int, ...]  #: whose features these are; one that stands in for others is there several times
    first: FrameFacts  #: and last: facts of the first and last analysed frame of the window
    last: FrameFacts
    frames_sampled: int  #: analysed frames in the window
    faces_too_small: int  #: people in the window's frames whose faces were too small to be read
    people: int  #: people in the window's fullest frame, those too small to be read included
    sightings: tuple[Sighting, ...]  #: where the face was, one for each real tick, oldest first


@dataclass(slots=True, eq=False)
class _Held:
    """A frame of the last ones, with faces of whom it may turn out later who they are."""

    facts: FrameFacts
    faces: tuple[TrackedFace, ...]
    too_small: tuple[TrackedFace, ...]
    actions: dict[int, tuple[float, ...]]

    @property
    def people(self) -> int:
        return sum(face.confirmed for face in (*self.faces, *self.too_small))

    def rename(self, old: int, new: int) -> None:
        self.faces, self.too_small = rename(self.faces, old, new), rename(self.too_small, old, new)
        if old in self.actions:
            self.actions.setdefault(new, self.actions.pop(old))


@dataclass(slots=True, eq=False)
class EpochSession:
    """Collects the features of an epoch's tracks and says which windows are ready.

    Tracks that are not sure to be people yet gather features like all others, under provisional numbers; windows and
    rows are made of the sure ones alone. State is bounded by the window: what is older than every open window, and
    than the ``HORIZON`` within which a track may be renamed, is dropped.
    """

    opened: EpochOpened
    grid: WindowGrid
    units: Sequence[str]
    track_id: Callable[[int], str]  #: public name of a track from its number
    last_seconds: float = 0.0
    _rings: dict[int, FeatureRing] = field(default_factory=dict)
    _rows: deque[_Held] = field(default_factory=deque)
    _ticked: deque[tuple[int, _Held]] = field(default_factory=deque)
    _closed: int = 0
    _latest: int = -1

    def add(
        self, frame: AnalysedFrame, features: torch.Tensor, actions: Sequence[tuple[float, ...]]
    ) -> list[FrameFaces | ClipJob]:
        """Take one analysed frame with the features of its crops; return the rows and windows that it completes.

        Args:
            frame: the frame; one without a tick only moves the time.
            features: float32 (F, D), one for each of the frame's crops.
            actions: intensities of the action units, one tuple for each of the frame's crops.
        """
        self.last_seconds = frame.facts.seconds
        for old, new in frame.renamed:
            self._rename(old, new)
        units = {face.track: row for face, row in zip(frame.faces, actions, strict=False)}
        held = _Held(frame.facts, frame.faces, frame.too_small, units)
        self._rows.append(held)
        ready = [self._row(self._rows.popleft())] if len(self._rows) > HORIZON + 1 else []
        if frame.tick is None:
            return [*ready]
        before, self._latest = self._latest, frame.tick
        self._ticked.append((frame.tick, held))
        seen = zip(frame.faces, features, actions, frame.portraits, strict=True)
        for face, feature, intensities, portrait in seen:
            sighting = Sighting(frame.tick, frame.facts, face, intensities, portrait)
            self._rings.setdefault(face.track, FeatureRing()).add(sighting, feature)
        return [*ready, *self._close(self.grid.complete_through(frame.tick), before)]

    def finish(self, *, flush: bool) -> list[FrameFaces | ClipJob]:
        """End the epoch; without ``flush`` (the run was stopped) only complete windows count.

        With it the last, shorter window is labelled, too, where no complete one covered it; a source shorter than a
        window is labelled from whatever it showed.
        """
        rows = [self._row(held) for held in self._rows]
        self._rows.clear()
        if not flush or not self._ticked:
            return [*rows]
        stop = self._ticked[-1][0] + 1
        jobs = [job for track, ring in self._people() for job in self._last_window(track, ring, stop)]
        self._rings.clear()
        return [*rows, *jobs]

    def _people(self) -> Iterator[tuple[int, FeatureRing]]:
        for track in sorted(self._rings):
            if track > 0:
                yield track, self._rings[track]

    def _rename(self, old: int, new: int) -> None:
        """Learn whose faces a track's were: those of the last ``HORIZON`` frames count as theirs."""
        recent = list(self._rows)[-HORIZON:]
        for held in recent:
            held.rename(old, new)
        ring = self._rings.pop(old, None)
        if ring is None:
            return
        ticks = [tick for tick, held in self._ticked if held in recent]
        if ticks:
            ring.forget_before(ticks[0])
            self._rings.setdefault(new, FeatureRing()).take_over(ring)

    def _row(self, held: _Held) -> FrameFaces:
        """Return the row of a frame whose faces are settled."""
        people = sorted((face for face in held.faces if face.confirmed), key=lambda face: face.track)
        newest = self._rows[-1].facts if self._rows else held.facts
        dated = self.opened.time_origin in ("rtcp", "wallclock")
        return FrameFaces(
            self.opened.source_id,
            self.opened.epoch,
            held.facts.index,
            held.facts.seconds,
            tuple(self._face_row(held, face) for face in people),
            tuple(face.track for face in held.too_small if face.confirmed),
            held.facts.media_seconds,
            held.facts.wall_time if dated else None,
            newest.wall_time if dated else None,
            newest.dropped,
        )

    def _face_row(self, held: _Held, face: TrackedFace) -> FaceRow:
        intensities = held.actions.get(face.track)
        return FaceRow(
            track=face.track,
            track_id=self.track_id(face.track),
            box=face.relative_box(held.facts.width, held.facts.height),
            score=face.score,
            quality=face.quality,
            action_units=dict(zip(self.units, intensities, strict=True)) if intensities else None,
            landmarks=face.relative_landmarks(held.facts.width, held.facts.height),
        )

    def _close(self, complete: int, before: int) -> list[ClipJob]:
        """Close windows; those that begin after the tick ``before`` hold nothing, but for the last."""
        begun = min(complete, self.grid.begun_by(before))
        jobs: list[ClipJob] = []
        for number in (*range(self._closed, begun), *range(max(self._closed, begun, complete - 1), complete)):
            for track, ring in self._people():
                jobs += self._window(track, ring, number)
        if complete > self._closed:
            self._closed = complete
            self._forget(self.grid.start(complete) if self.grid.stride else self.grid.end(0))
        return jobs

    def _last_window(self, track: int, ring: FeatureRing, stop: int) -> list[ClipJob]:
        unseen = [tick for tick in ring.ticks if tick >= ring.labelled_before]
        if not unseen:
            return []
        # The first open window reaches furthest back: it holds every tick that is not labelled yet.
        return self._window(track, ring, self._closed, stop=stop, lenient=self._closed == 0)

    def _window(
        self, track: int, ring: FeatureRing, number: int, *, stop: int | None = None, lenient: bool = False
    ) -> list[ClipJob]:
        start, end = self.grid.start(number), self.grid.end(number)
        analysed = [tick for tick, _ in self._ticked]
        ticks = fill_window(self.grid, number, ring.ticks, analysed, stop=stop, lenient=lenient)
        if ticks is None:
            return []
        inside = [held for tick, held in self._ticked if start <= tick < end]
        ring.mark_labelled(end)
        return [
            ClipJob(
                opened=self.opened,
                track=track,
                features=ring.gather(ticks),
                ticks=ticks,
                first=inside[0].facts,
                last=inside[-1].facts,
                frames_sampled=len(inside),
                faces_too_small=len({face.track for held in inside for face in held.too_small if face.confirmed}),
                people=max(held.people for held in inside),
                sightings=tuple(sighting for sighting in ring if start <= sighting.tick < end),
            )
        ]

    def _forget(self, tick: int) -> None:
        while self._ticked and self._ticked[0][0] < tick:
            self._ticked.popleft()
        for track, ring in list(self._rings.items()):
            ring.forget_before(tick)
            if not ring:
                del self._rings[track]
