"""From pictures as they arrive over one connection to frames with their place in time."""

from __future__ import annotations

import time
from collections.abc import Iterator

from streamfer.records.values import TimeOrigin
from streamfer.video.clock import ArrivalClock, PtsClock, Tick
from streamfer.video.connection import Arrival, Opened
from streamfer.video.frames import Frame, FrameFilter, Leap, StateChange, VideoInfo
from streamfer.video.locate import SourceSpec
from streamfer.video.pixels import UPRIGHT, PictureForm, RgbConverter

_ASSUMED_FPS = 25.0
# A camera whose clock was never set reports 1970: such a time is worse than the time of arrival.
_BELIEVABLE_SECONDS = 300.0
_HEALED_SECONDS = 2.0
# Less is a clock that is corrected; more moves the times of all that comes.
_SET_SECONDS = 2.0
# Before the first picture: one that says it is not turned is upright, for cameras do not mirror.
_NONE_YET = PictureForm(0, 0, UPRIGHT, "", 0)


class FrameLine:
    """The frames of one connection: their clock, their wall time, and ``online`` where an epoch begins.

    The wall time is the sender's (RTCP) where it is known and within five minutes of ours, else the arrival's; also
    behind a jump of its clock, for the reports were of the clock that was. For video on demand it is the time in the
    video, as for a file. A connection without a picture for ``stall`` seconds is given up.
    """

    def __init__(self, spec: SourceSpec, opened: Opened, epoch: int, stall: float = 0.0) -> None:
        self.opened = opened
        self._spec = spec
        self._form: PictureForm | None = None
        self._clock = PtsClock(opened.time_base, 1 / (opened.rate or _ASSUMED_FPS), epoch=epoch, stall=stall)
        self._arrivals = ArrivalClock()
        self._converter = RgbConverter()
        self.late = 0.0  #: seconds by which the latest picture came later than the promptest of the last half minute
        self._lost, self._damaged = 0, 0.0
        self._other: float | None = None
        self._reported = True
        self._offset: float | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the latest frame."""
        return self._clock.epoch

    @property
    def end(self) -> float:
        """Seconds from the connection's first frame to the end of the latest, leaps left out."""
        return self._clock.elapsed

    def advance(self, arrival: Arrival, wanted: FrameFilter | None) -> Iterator[Frame | StateChange]:
        """Yield ``online`` where an epoch begins, and the frame where it is wanted."""
        picture = arrival.picture
        before, form = self._form, PictureForm.of(picture, self._form or _NONE_YET)
        if self._doubtful(arrival, form):
            return
        self._form = form
        clock_set = self._clock_set(arrival)
        change = form.change_from(before) or clock_set
        tick = self._clock.tick(arrival.pts, picture.duration, change)
        seconds = float(tick.pts * self.opened.time_base)
        if tick.reason:
            self._arrivals = ArrivalClock()
            self._reported &= bool(change)
        wall_time, origin = self._wall_time(arrival, tick, seconds)
        if tick.reason or before is None:
            info = self._info(form, wall_time)
            leap = Leap(tick.leap, self.opened.time_base, wall_time, origin) if tick.leap or clock_set else None
            yield StateChange("online", tick.epoch, time.time(), tick.reason, info=info, leap=leap)
        if wanted is None or wanted(tick.epoch, seconds, tick.index):
            image, surface = self._converter.convert_both(picture, form.turn)
            yield Frame(
                image=image,
                pts=tick.pts,
                time_base=self.opened.time_base,
                epoch=tick.epoch,
                wall_time=wall_time,
                time_origin=origin,
                index=tick.index,
                media_seconds=float(tick.media * self.opened.time_base) - self.opened.zero
                if self.opened.ends
                else None,
                lost=arrival.lost,
                surface=surface,
            )

    def _clock_set(self, arrival: Arrival) -> str:
        """Say in words that this machine's clock was set since the last picture; empty where it was not."""
        before, self._offset = self._offset, arrival.arrived - arrival.steady
        by = 0.0 if before is None or self.opened.ends else self._offset - before
        way = "ahead" if by > 0 else "back"
        return f"this machine's clock was set {way} by {abs(by):.0f} s" if abs(by) > _SET_SECONDS else ""

    def _doubtful(self, arrival: Arrival, form: PictureForm) -> bool:
        """Whether pictures of another form come from damaged bytes: such a change must last to be believed."""
        if (lost := sum(arrival.lost.values())) != self._lost:
            self._lost, self._damaged = lost, arrival.arrived
        if self._form is None or not form.change_from(self._form):
            self._other = None
            return False
        self._other = self._other or arrival.arrived
        return arrival.arrived - min(self._damaged, self._other) < _HEALED_SECONDS

    def _wall_time(self, arrival: Arrival, tick: Tick, seconds: float) -> tuple[float, TimeOrigin]:
        if self.opened.ends:
            return tick.elapsed, "file"
        by_arrival = self._arrivals.wall_time(seconds, arrival.arrived)
        self.late = arrival.arrived - by_arrival
        captured = arrival.captured if self._reported else None
        if captured is not None and abs(captured - arrival.arrived) < _BELIEVABLE_SECONDS:
            return captured, "rtcp"
        return by_arrival, "wallclock"

    def _info(self, form: PictureForm, wall_time: float) -> VideoInfo:
        return VideoInfo(
            source_id=self._spec.source_id,
            location=self._spec.location,
            width=form.width,
            height=form.height,
            codec=self.opened.codec,
            declared_fps=self.opened.rate,
            duration=self.opened.duration,
            rotation=form.turn.rotation,
            live=not self.opened.ends,
            epoch_key=self._spec.address_key if self.opened.ends else str(round(wall_time * 1000)),
        )
