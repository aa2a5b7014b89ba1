"""Scenes for pipeline tests: bright squares that a fake detector takes for faces, and pipelines of fakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from fakes.faces import FakeDetector
from fakes.models import FakeExpressionModel
from numpy.typing import NDArray

from streamfer.config import Config, configure
from streamfer.faces import FaceTracker, TrackedFace
from streamfer.faces.alignment import landmarks_within
from streamfer.models.expression import ExpressionModel
from streamfer.pipeline.analysis import AnalysisPlan, DetectorPool
from streamfer.pipeline.events import Event, FrameFaces, SourceDone
from streamfer.pipeline.items import FrameFacts
from streamfer.pipeline.loop import Pipeline
from streamfer.pipeline.observer import ObserverPlan
from streamfer.pipeline.reports import RecordWriter
from streamfer.pipeline.selection import Selector, TimeSelector
from streamfer.pipeline.windows import WindowGrid
from streamfer.records import ClipLabelled, Record
from streamfer.video.frames import Source, VideoInfo

FPS = 8.0
CONFIG = configure(Config(), fps=FPS, faces__min_size=8, live__queue_frames=4, model__batch_wait=0.01)
GRID = WindowGrid.of(CONFIG.clip, CONFIG.sampling, 16)


def squares(*places: tuple[int, int], number: int = 0, size: int = 48) -> NDArray[np.uint8]:
    """Return a dark picture (160, 240, 3) with a bright square at each (x, y), different in every frame."""
    picture = np.full((160, 240, 3), 30, np.uint8)
    rng = np.random.default_rng(number)
    for x, y in places:
        picture[y : y + size, x : x + size] = rng.integers(205, 255, (size, size, 3))
    return picture


def one_face(number: int) -> NDArray[np.uint8]:
    """A square that drifts to the right and back."""
    return squares((20 + abs(number % 200 - 100), 50), number=number)


def two_faces(number: int) -> NDArray[np.uint8]:
    """Two squares side by side."""
    return squares((20, 50), (150, 60 + abs(number % 40 - 20)), number=number)


def face_at(track: int, left: float = 20.0, side: float = 40.0, quality: float = 0.8) -> TrackedFace:
    """Return a face of ``side`` pixels whose box begins at (``left``, 30)."""
    box = np.array([left, 30, left + side, 30 + side], np.float32)
    landmarks = landmarks_within(box[None])[0]
    return TrackedFace(track, 0, box, 0.9, landmarks, quality, pose=0.9, sharpness=0.7)


def facts_at(tick: int, width: int = 240, height: int = 160) -> FrameFacts:
    """Return the facts of a frame at 8 frames a second."""
    return FrameFacts(
        width=width,
        height=height,
        index=tick,
        pts=tick,
        seconds=tick / 8,
        wall_time=tick / 8,
        dropped={},
        decode_s=0.0,
        arrived=0.0,
        detect_s=0.0,
    )


def pipeline(
    *,
    model: ExpressionModel | None = None,
    grid: WindowGrid = GRID,
    selector: Callable[[Source], Selector] = lambda _source: TimeSelector(FPS),
    max_open: int | None = None,
    observed: ObserverPlan | None = None,
    **settings: object,
) -> Pipeline:
    """Return a pipeline of fakes with the real tracker; ``settings`` are named as for :func:`configure`."""
    model = model or FakeExpressionModel()

    def tracker(info: VideoInfo) -> FaceTracker:
        return FaceTracker(FPS, still=info.still)

    return Pipeline(
        plan=AnalysisPlan(
            configure(CONFIG, **settings),
            model.info.crop,
            selector,
            tracker,
            observed,
            crops_on=model.info.device if model.info.takes_tensors else None,
        ),
        detectors=DetectorPool([FakeDetector()]),
        model=model,
        grid=grid,
        records=RecordWriter(
            model.info,
            "fake",
            "test",
            lambda source, epoch, track: f"{source}-{epoch}-{track}",
            emotions=configure(CONFIG, **settings).model.emotions,
        ),
        max_open=max_open,
    )


def run(sources: Sequence[Source], **settings: object) -> list[Event]:
    """Run a pipeline of fakes to its end."""
    return list(pipeline(**settings).events(sources))  # type: ignore[arg-type]


def clips(events: Sequence[Event], source_id: str | None = None) -> list[ClipLabelled]:
    """Return the labelled clips among ``events``."""
    return [
        event.data
        for event in events
        if isinstance(event, Record)
        and isinstance(event.data, ClipLabelled)
        and (source_id is None or event.subject == source_id)
    ]


def rows(events: Sequence[Event]) -> list[FrameFaces]:
    """Return the frame rows among ``events``."""
    return [event for event in events if isinstance(event, FrameFaces)]


def done(events: Sequence[Event]) -> dict[str, SourceDone]:
    """Return each source's end."""
    return {event.source_id: event for event in events if isinstance(event, SourceDone)}


Picture = Callable[[int], NDArray[np.uint8]]
