"""A source without files or cameras, for tests and for trying a pipeline out: pictures and faults by script."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from streamfer.video.frames import Frame, FrameFilter, StateChange, VideoInfo
from streamfer.video.sampling import TimeSampler

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Jump:
    """The source's clock leaps: forwards by ``seconds`` (a gap), or, with None, back to zero in a new epoch."""

    seconds: float | None = None


def as_nvdec(frame: av.VideoFrame) -> av.VideoFrame:
    """The same picture in the form that NVDEC gives."""
    form, span = "p010le" if "10" in frame.format.name else "nv12", frame.color_range
    there = frame.reformat(format=form, src_color_range=span, dst_color_range=span)
    there.colorspace, there.color_range = frame.colorspace, span
    return there


Happening = StateChange | Exception | Jump
"""What a script puts before a frame: a state to yield, an exception to raise, or a leap of the clock."""


class FakeSource:
    """A source that yields given pictures at a steady rate, with scripted states and faults between them.

    It keeps the protocol of real sources: ``online`` first (and again, with its info, after a :class:`Jump` back),
    rising times, ``ended`` last, filters counted. It never sleeps.

    Args:
        pictures: uint8 RGB (H, W, 3) arrays, or a function of the frame's number.
        count: number of frames; None: as many as there are arrays.
        fps: frames a second.
        source_id: stable name.
        live: whether it says that frames arrive in real time.
        script: happenings before the frame of that number; ``count`` is the place after the last frame.
        start_time: Unix time of the first frame of a live source, seconds.

    >>> source = FakeSource([np.zeros((4, 6, 3), np.uint8)] * 2, script={1: [Jump()]})
    >>> [(type(item).__name__, item.epoch) for item in source.stream()]
    [('StateChange', 0), ('Frame', 0), ('StateChange', 1), ('Frame', 1), ('StateChange', 1)]
    """

    def __init__(
        self,
        pictures: Sequence[Picture] | Callable[[int], Picture],
        *,
        count: int | None = None,
        fps: float = 25.0,
        source_id: str = "fake",
        live: bool = False,
        script: Mapping[int, Sequence[Happening]] | None = None,
        start_time: float = 1_700_000_000.0,
    ) -> None:
        if count is None and callable(pictures):
            raise ValueError("pictures from a function need a count")
        self._pictures = pictures
        self._count = len(pictures) if count is None and not callable(pictures) else count or 0
        self._time_base = 1 / (Fraction(fps).limit_denominator(1001) * 1000)
        self._source_id = source_id
        self._live = live
        self._script = {number: tuple(happenings) for number, happenings in (script or {}).items()}
        self._start_time = start_time
        self._decoded = 0
        self._closed = False

    @property
    def source_id(self) -> str:
        """Stable name."""
        return self._source_id

    @property
    def live(self) -> bool:
        """Whether frames are said to arrive in real time."""
        return self._live

    @property
    def frames_decoded(self) -> int:
        """Frames made since the last call of :meth:`stream`."""
        return self._decoded

    def close(self) -> None:
        """End the iteration before its next frame, for good."""
        self._closed = True

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        """Yield ``online``, frames and happenings by the script, and ``ended``.

        Raises:
            Exception: whatever the script holds.
        """
        self._decoded = 0
        epoch = index = pts = 0
        elapsed = Fraction(0)
        yield StateChange("online", epoch, time.time(), info=self._info(0.0))
        for number in range(self._count):
            for happening in self._script.get(number, ()):
                if isinstance(happening, Jump) and happening.seconds is None:
                    epoch, index, pts = epoch + 1, 0, 0
                    yield StateChange("online", epoch, time.time(), info=self._info(float(elapsed)))
                elif isinstance(happening, Jump):
                    leap = round(happening.seconds / self._time_base) if happening.seconds else 0
                    pts, elapsed = pts + leap, elapsed + leap * self._time_base
                else:
                    yield _told(happening, epoch)
            if self._closed:
                break
            self._decoded += 1
            if wanted is None or wanted(epoch, float(pts * self._time_base), index):
                yield self._frame(number, epoch, pts, index, elapsed=float(elapsed))
            pts, index, elapsed = pts + 1000, index + 1, elapsed + 1000 * self._time_base
        else:
            for happening in self._script.get(self._count, ()):
                if not isinstance(happening, Jump):
                    yield _told(happening, epoch)
        yield StateChange("ended", epoch, time.time(), reason="closed on request" if self._closed else "")

    def _frame(self, number: int, epoch: int, pts: int, index: int, *, elapsed: float) -> Frame:
        return Frame(
            image=np.ascontiguousarray(self._picture(number)),
            pts=pts,
            time_base=self._time_base,
            epoch=epoch,
            wall_time=self._start_time + elapsed if self._live else elapsed,
            time_origin="wallclock" if self._live else "file",
            index=index,
        )

    def _picture(self, number: int) -> Picture:
        return self._pictures(number) if callable(self._pictures) else self._pictures[number % len(self._pictures)]

    def _info(self, elapsed: float) -> VideoInfo:
        height, width = self._picture(0).shape[:2] if self._count else (0, 0)
        began = round((self._start_time + elapsed) * 1000)
        return VideoInfo(
            source_id=self._source_id,
            location=f"fake:{self._source_id}",
            width=width,
            height=height,
            codec="fake",
            declared_fps=float(1 / (self._time_base * 1000)),
            duration=None if self._live else float(self._count * 1000 * self._time_base),
            rotation=0,
            live=self._live,
            epoch_key=str(began) if self._live else f"fake-{self._source_id}-{self._count}",
        )


def _told(happening: StateChange | Exception, epoch: int) -> StateChange:
    if isinstance(happening, Exception):
        raise happening
    return replace(happening, epoch=epoch)


def sampled(fps: float) -> FrameFilter:
    """Return a filter that wants ``fps`` pictures a second of one epoch."""
    sampler = TimeSampler(fps)
    return lambda _epoch, seconds, _index: sampler.tick(seconds) is not None
