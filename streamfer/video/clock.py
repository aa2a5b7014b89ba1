"""A source's clock: presentation times measured from each epoch's own zero, always rising; and ours, which may rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction

_GLITCH_SECONDS = 0.1
_GLITCH_PERIODS = 3
_AHEAD_SECONDS = 10.0
_AHEAD_PERIODS = 5
# Shorter pauses are a busy machine's, and so are those in which this process worked.
_NAP_SECONDS = 2.0
_NAP_WORK = 0.1


def steady_now() -> float:
    """Seconds by a clock that nobody sets; it goes on while the machine sleeps, where the system has such a one."""
    boot: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Nap:
    """Notices that this process did not run: its machine was suspended, or the process stopped.

    Counts from its making.
    """

    def __init__(self) -> None:
        self._began, self._worked = steady_now(), time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds for which nothing of this process ran; 0 where it did."""
        passed, worked = steady_now() - self._began, time.process_time() - self._worked
        return passed if passed > _NAP_SECONDS and worked < _NAP_WORK * passed else 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A frame's place in time."""

    epoch: int
    pts: int  #: time in ``time_base`` units from the epoch's first frame
    index: int  #: number of the frame among the decoded frames of its epoch
    elapsed: float  #: seconds since the clock's very first frame, over all epochs
    media: int  #: the time that the decoder gave it, in ``time_base`` units; by ``pts`` where it gave none
    reason: str = ""  #: why this frame opened a new epoch, in words; empty where it did not
    leap: int = 0  #: units that the clock passed over ahead of this frame, where that opened the epoch


class PtsClock:
    """Turns decoder timestamps into rising times from zero.

    A missing timestamp is the previous one plus one period. A step back of more than three frame periods (at
    least 0.1 s) starts a new epoch, and so does a leap ahead that no stall explains; a smaller step back, or a
    repeated time, is a muxing glitch, and the frame follows its predecessor by one unit.

    Args:
        time_base: seconds per unit.
        period: seconds per frame to assume where the stream states no duration.
        stall: seconds that a source may pause within an epoch; never less than ten, or five frame periods.
    """

    def __init__(self, time_base: Fraction, period: float, *, epoch: int = 0, stall: float = 0.0) -> None:
        self.time_base = time_base
        self.period = period
        self.epoch = epoch
        self._ahead = max(stall, _AHEAD_SECONDS, _AHEAD_PERIODS * period)
        self._behind = max(_GLITCH_SECONDS, _GLITCH_PERIODS * period)
        self._base: int | None = None
        self._last = 0
        self._last_duration = 0
        self._index = -1
        self._elapsed_base = 0.0

    @property
    def end(self) -> float:
        """Seconds from the epoch's zero to the end of the last frame."""
        return float((self._last + self._last_duration) * self.time_base)

    @property
    def elapsed(self) -> float:
        """Seconds from the clock's very first frame to the end of the last one, over all epochs."""
        return self._elapsed_base + self.end

    def tick(self, pts: int | None, duration: int | None, change: str = "") -> Tick:
        """Place the next frame.

        Args:
            pts, duration: in ``time_base`` units, None or 0 where unknown.
            change: why this frame opens an epoch whatever its time is, in words.
        """
        units = max(1, round(self.period / self.time_base))
        if pts is not None and duration and duration > 0:
            # Without a timestamp the duration is the parser's guess, and 1 for the frames flushed at the end.
            units = duration
        reason, leap = "", 0
        if self._base is None:
            self._base, place = pts or 0, 0
        else:
            expected = self._last + self._last_duration
            place = expected if pts is None else pts - self._base
            jump = self._jump(place, expected)
            reason = change or jump
            leap = max(0, place - expected) if jump else 0
            place = max(place, self._last + 1)
            if reason:
                self._elapsed_base += self.end if jump else float(place * self.time_base)
                self.epoch += 1
                self._base, place, self._index = pts or 0, 0, -1
        self._last, self._last_duration = place, units
        self._index += 1
        elapsed = self._elapsed_base + float(place * self.time_base)
        return Tick(self.epoch, place, self._index, elapsed, self._base + place, reason, leap)

    def _jump(self, place: int, expected: int) -> str:
        """Say in words how the clock jumps with a frame at ``place``; empty where it runs on."""
        back = float((self._last - place) * self.time_base)
        if back > self._behind:
            return f"its clock jumps back by {back:.1f} s"
        ahead = float((place - expected) * self.time_base)
        return f"its clock jumps ahead by {ahead:.1f} s" if ahead > self._ahead else ""


class ArrivalClock:
    """Wall time of frames by when they arrived, without the network's jitter.

    The smallest recent difference between arrival and stream time is the path's delay at its best; later
    arrivals were held up. The estimate looks back 30 to 60 seconds, so that a camera whose crystal drifts does not
    drag it along. Times never run backwards and never lie after the arrival.
    """

    _BUCKET_SECONDS = 30.0

    def __init__(self) -> None:
        self._bucket = 0
        self._earlier = float("inf")
        self._current = float("inf")

    def wall_time(self, seconds: float, arrived: float) -> float:
        """Unix time of the frame at ``seconds`` of its epoch that came in at Unix time ``arrived``."""
        bucket = int(seconds // self._BUCKET_SECONDS)
        if bucket != self._bucket:
            self._earlier, self._current = self._current, float("inf")
            self._bucket = bucket
        self._current = min(self._current, arrived - seconds)
        return seconds + min(self._current, self._earlier)
