"""The front of the pipeline: one source's frames become tracked faces and crops.

A source has two threads. The *reader* decodes and chooses frames; the *analyser* detects, tracks and cuts
crops. For files the reader waits when the analyser is busy; for live sources the oldest waiting frame is
dropped and counted, and what would come to the model too late for ``live.staleness``, so that a slow machine falls
behind in rate and never in time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamfer.config import Config
from streamfer.errors import InternalError, StreamferError
from streamfer.faces.alignment import crop_faces, crop_surface
from streamfer.faces.detections import Detections, Detector, TrackedFace
from streamfer.faces.quality import measured
from streamfer.faces.search import FaceSearch
from streamfer.geometry import CropProfile
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.items import AnalysedFrame, Changed, Ended, EpochOpened, FrameFacts, Item
from streamfer.pipeline.observer import ObserverPlan
from streamfer.pipeline.selection import Pick, Selector
from streamfer.video.frames import Frame, Source, StateChange, VideoInfo
from streamfer.video.surfaces import if_it_fits

if TYPE_CHECKING:
    import torch

    from streamfer.faces.tracking import FaceTracker

#: Shares of ``live.staleness``: what a frame may take to the model, which may let its crops wait for the rest, and from
#: when on it is searched only if it has to be.
_READY, _HURRY = 0.7, 0.15
#: How much the last frame says of how long the next will take.
_RECENT = 0.2

#: Sees an analysed picture of a source, uint8 RGB (H, W, 3), with all that was found in it and all that is followed.
Onlooker = Callable[[str, NDArray[np.uint8], Detections | None, Sequence[TrackedFace]], object]


class DetectorPool:
    """A few detectors shared by many sources: at most as many detections run at once as there are detectors."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._idle: queue.SimpleQueue[Detector] = queue.SimpleQueue()
        for detector in detectors:
            self._idle.put(detector)

    @contextmanager
    def borrow(self) -> Iterator[Detector]:
        """Wait for a detector, and give it back afterwards."""
        detector = self._idle.get()
        try:
            yield detector
        finally:
            self._idle.put(detector)


@dataclass(frozen=True, slots=True)
class AnalysisPlan:
    """How the frames of a source are analysed."""

    config: Config  #: how often faces are detected, which are read, and how many frames may wait for the analyser
    crop: CropProfile
    selector: Callable[[Source], Selector]
    tracker: Callable[[VideoInfo], FaceTracker]
    #: which clips are shown to whom, and so whose crops are kept; None where nobody watches
    observed: ObserverPlan | None = None
    onlooker: Onlooker | None = None  #: is shown every analysed picture; must not wait
    crops_on: str | None = None  #: torch's device on which the model takes tensors; None where it takes none


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    frame: Frame
    pick: Pick
    decode_s: float
    arrived: float


class _Chooser:
    """Answers the source's question, for each decoded frame and before its conversion, whether it is analysed."""

    def __init__(self, source: Source, selector: Callable[[Source], Selector]) -> None:
        self._source = source
        self._make = selector
        self._epoch: int | None = None
        self._selector: Selector | None = None
        self._pick: Pick | None = None

    def wants(self, epoch: int, seconds: float, index: int) -> bool:
        """Decide on one frame; an epoch's first frame makes a new selector."""
        if self._selector is None or epoch != self._epoch:
            self._selector, self._epoch = self._make(self._source), epoch
        self._pick = self._selector.choose(seconds, index)
        return self._pick is not None

    def take(self) -> Pick:
        """Return the decision on the frame that the source has just yielded."""
        if self._pick is None:
            raise InternalError("the source yielded a frame that was refused")
        return self._pick


@dataclass(slots=True, eq=False)
class SourceAnalysis:
    """Runs one source from its first frame to its last, putting items into the pipeline's shared queue."""

    source: Source
    plan: AnalysisPlan
    detectors: DetectorPool
    out: Callable[[Item], None]
    stop: threading.Event
    clock: StageClock
    _waiting: deque[_Chosen | StateChange] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _finished: bool = False
    _error: StreamferError | None = None
    _dropped: Counter[str] = field(default_factory=Counter)
    _takes: float = 0.0  #: seconds that a frame takes from here to the model, of late

    def run(self) -> None:
        """Analyse the source to its end; always puts an :class:`Ended` last."""
        reader = threading.Thread(target=self._read, name=f"read {self.source.source_id}", daemon=True)
        reader.start()
        try:
            self._analyse()
        except Exception as error:
            # A defect in one source must not take the others down: it is reported as that source's end.
            self._error = _as_streamfer_error(self.source.source_id, error)
        finally:
            self._finish()
            self.source.close()
            reader.join(timeout=2)
            self.out(
                Ended(
                    self.source.source_id,
                    self._error,
                    self.stop.is_set(),
                    self.source.frames_decoded,
                    self._dropped.total(),
                )
            )

    def _finish(self) -> None:
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    # Reader thread ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        chooser = _Chooser(self.source, self.plan.selector)
        began = time.perf_counter()
        try:
            for item in self.source.stream(chooser.wants):
                if self._done():
                    break
                if isinstance(item, StateChange):
                    self._hand_over(item)
                else:
                    arrived = time.perf_counter()
                    self.clock.add("decode", arrived - began)
                    self._hand_over(_Chosen(item, chooser.take(), arrived - began, arrived))
                began = time.perf_counter()
        except Exception as error:
            self._error = _as_streamfer_error(self.source.source_id, error)
        finally:
            self._finish()

    def _hand_over(self, item: _Chosen | StateChange) -> None:
        with self._changed:
            if self.source.live:
                self._make_room()
            else:
                while len(self._waiting) >= self.plan.config.live.queue_frames and not self._done():
                    self._changed.wait(0.2)
            self._waiting.append(item)
            self._changed.notify_all()

    def _make_room(self) -> None:
        """Drop the oldest frame where too many wait; what waits for too long goes when it is taken."""
        waiting = [item for item in self._waiting if isinstance(item, _Chosen)]
        if len(waiting) >= self.plan.config.live.queue_frames:
            self._waiting.remove(waiting[0])
            self._dropped["too_old" if self._late(waiting[0]) else "queue_full"] += 1

    def _late(self, frame: _Chosen, share: float = _READY) -> bool:
        """Tell whether a frame would come to the model after that share of ``live.staleness``, as things go."""
        waited = time.perf_counter() - frame.arrived
        return waited + self._takes > share * self.plan.config.live.staleness

    def _done(self) -> bool:
        return self.stop.is_set() or self._finished

    # Analyser ---------------------------------------------------------------------------------------------

    def _next(self) -> _Chosen | StateChange | None:
        with self._changed:
            while not self._waiting:
                if self._done():
                    return None
                self._changed.wait(0.2)
            if self.stop.is_set():
                return None
            item = self._waiting.popleft()
            # The newest is taken whatever its age: a slow machine labels few frames, not none.
            while self.source.live and self._waiting and isinstance(item, _Chosen) and self._late(item):
                self._dropped["too_old"] += 1
                item = self._waiting.popleft()
            self._changed.notify_all()
            return item

    def _analyse(self) -> None:
        plan = self.plan
        info: VideoInfo | None = None
        tracker: FaceTracker | None = None
        search: FaceSearch | None = None
        epoch: int | None = None
        analysed = 0
        while (item := self._next()) is not None:
            if isinstance(item, StateChange):
                if item.info is not None and item.damage is None:
                    info, tracker = item.info, None
                self.out(Changed(self.source.source_id, item))
                continue
            if info is None:
                raise InternalError("a frame came before its source was online")
            if tracker is None or item.frame.epoch != epoch:
                tracker, epoch, analysed = plan.tracker(info), item.frame.epoch, 0
                search = FaceSearch(plan.config.faces.search, tracker, still=info.still)
                frame = item.frame
                self.out(EpochOpened(self.source.source_id, epoch, info, frame.time_base, frame.time_origin))
            detect = analysed % plan.config.faces.detect_every == 0
            analysed += 1
            began = time.perf_counter()
            self.out(self._analyse_frame(item, tracker, search if detect else None))
            self._takes += _RECENT * (time.perf_counter() - began - self._takes)

    def _analyse_frame(self, chosen: _Chosen, tracker: FaceTracker, search: FaceSearch | None) -> AnalysedFrame:
        frame, tick = chosen.frame, chosen.pick.tick
        began = time.perf_counter()
        detections: Detections | None = None
        if search is not None:
            with self.detectors.borrow() as detector, self.clock.measure("detect"):
                hurried = self.source.live and self._late(chosen, _HURRY)
                detections = search.detect(detector, frame.image, hurried=hurried)
        with self.clock.measure("track"):
            tracked = tracker.update(frame.image, detections)
        detect_s = time.perf_counter() - began
        if self.plan.onlooker is not None:
            self.plan.onlooker(self.source.source_id, frame.image, detections, tracked.faces)
        height, width = frame.image.shape[:2]
        facts = FrameFacts(
            width=width,
            height=height,
            index=frame.index,
            pts=frame.pts,
            seconds=frame.seconds,
            wall_time=frame.wall_time,
            dropped={**self._dropped, **frame.lost},
            decode_s=chosen.decode_s,
            arrived=chosen.arrived,
            detect_s=detect_s,
            media_seconds=frame.media_seconds,
        )
        with self.clock.measure("crop", len(tracked.faces)):
            large = measured(frame.image, [face for face in tracked.faces if self._readable(face)])
            faces = tuple(face for face in large if face.quality >= self.plan.config.faces.min_quality)
            crops = self._crops(frame, faces if tick is not None else ())
            portraits = self._portraits(frame.image, faces, crops)
        return AnalysedFrame(
            source_id=self.source.source_id,
            epoch=frame.epoch,
            tick=tick,
            facts=facts,
            faces=faces,
            too_small=tuple(face for face in tracked.faces if not self._readable(face)),
            renamed=tracked.renamed,
            crops=crops,
            portraits=portraits,
            left_out=detections.left_out if detections else 0,
        )

    def _readable(self, face: TrackedFace) -> bool:
        return bool(min(face.box[2:] - face.box[:2]) >= self.plan.config.faces.min_size)

    def _crops(self, frame: Frame, faces: Sequence[TrackedFace]) -> NDArray[np.uint8] | torch.Tensor:
        """Cut what the model reads: on its GPU where that decoded the frame, and has room."""
        surface = frame.surface
        if surface is not None and faces and str(surface.device) == self.plan.crops_on:
            crops = if_it_fits(lambda: crop_surface(surface, *_places(faces), self.plan.crop))
            if crops is not None:
                return crops
        return _cut(frame.image, faces, self.plan.crop)

    def _portraits(
        self, image: NDArray[np.uint8], faces: Sequence[TrackedFace], crops: NDArray[np.uint8] | torch.Tensor
    ) -> tuple[NDArray[np.uint8] | None, ...]:
        """Return one portrait a crop: of the largest faces where somebody watches, of none otherwise."""
        portraits: list[NDArray[np.uint8] | None] = [None] * len(crops)
        observed = self.plan.observed
        if observed is not None and observed.crop is not None and portraits:
            order = sorted(range(len(faces)), key=lambda place: -faces[place].side)
            largest = order[: observed.captions.max_faces]
            # An observer that looks at the very crops of the expression model costs no second cut, on the host.
            if isinstance(crops, np.ndarray) and observed.crop == self.plan.crop:
                cut = crops[largest]
            else:
                cut = _cut(image, [faces[place] for place in largest], observed.crop)
            for place, portrait in zip(largest, cut, strict=True):
                portraits[place] = portrait
        return tuple(portraits)


def _cut(image: NDArray[np.uint8], faces: Sequence[TrackedFace], profile: CropProfile) -> NDArray[np.uint8]:
    """Cut faces out of a frame: uint8 RGB (F, S, S, 3)."""
    return crop_faces(image, *_places(faces), profile)


def _places(faces: Sequence[TrackedFace]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the boxes (F, 4) and landmarks (F, 5, 2) of faces."""
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    return boxes, np.array([face.landmarks for face in faces], np.float32).reshape(-1, 5, 2)


def _as_streamfer_error(source_id: str, error: Exception) -> StreamferError:
    if isinstance(error, StreamferError):
        return error
    internal = InternalError(f"{source_id}: {type(error).__name__}: {error}")
    internal.__cause__ = error
    return internal
