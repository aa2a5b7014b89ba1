"""A live source's losses, from one good frame to the next."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streamfer.pipeline.items import EpochOpened, FrameFacts
from streamfer.video.clock import Nap

_TELL_SECONDS = 10.0
_WALL = ("rtcp", "wallclock")
REASONS = {
    "queue_full": "this machine was busy",
    "too_old": "this machine was busy: pictures had waited longer than live.staleness",
    "decode_error": "pictures came damaged",
    "packet_loss": "pictures never came: packets are lost on the way, or the link is too slow",
    "no_pictures": "the source sent no pictures that could be decoded",
    "reconnect": "the source was offline",
    "suspended": "this machine was suspended, or the process stopped",
}
_LOOK_SECONDS = 0.5
_NAPS_REMEMBERED = 64

#: Whether this process did not run between two Unix times.
Slept = Callable[[float, float], bool]


class Naps:
    """When this process did not run: watched by a thread that does nothing else, until ``stop``."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._nap = Nap()
        self._known: deque[tuple[float, float]] = deque(maxlen=_NAPS_REMEMBERED)
        threading.Thread(target=self._watch, name="streamfer naps", daemon=True).start()

    def through(self, start: float, end: float) -> bool:
        """Whether more than half of the time between two Unix times was slept through."""
        with self._lock:
            self._look()
            slept = sum(max(0.0, min(end, woke) - max(start, fell)) for fell, woke in self._known)
        return slept > (end - start) / 2

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            with self._lock:
                self._look()

    def _look(self) -> None:
        nap, self._nap = self._nap, Nap()
        if seconds := nap.seconds:
            now = time.time()
            self._known.append((now - seconds, now))


@dataclass(frozen=True, slots=True)
class Loss:
    """A stretch of which pictures were not analysed; cause (one of ``REASONS``) and count are those of a gap."""

    opened: EpochOpened  #: the epoch in which it ended
    cause: str
    count: int  #: 0 where nobody could count
    start: float  #: and end: Unix time of the good frames before and after it, seconds
    end: float


@dataclass(slots=True)
class Ledger:
    """Tells what is missing: a pause longer than a window at once, lost pictures at most every ten seconds.

    What goes on is told again every ten seconds, from its beginning.
    """

    window: float  #: seconds of a clip
    ticks: int  #: analysed pictures of a clip; fewer dropped ones in ten seconds stand in the clips' own counts
    #: Unix time of the last good frame; None before the first, and for sources without wall time
    last: float | None = None
    away: float | None = None  #: Unix time of the last good frame before an outage that goes on
    _drops: Mapping[str, int] = field(default_factory=dict)
    _since: float = 0.0
    _told: float = 0.0

    def good(self, opened: EpochOpened, facts: FrameFacts, slept: Slept) -> list[Loss]:
        """Take a frame that was analysed, and return what was lost before it."""
        if opened.time_origin not in _WALL:
            return []
        before, self.last, self._told = self.last, facts.wall_time, time.time()
        if before is None:
            self._since, self._drops = facts.wall_time, facts.dropped
            return []
        dropped = {cause: number - self._drops.get(cause, 0) for cause, number in facts.dropped.items()}
        paused = facts.wall_time - before > self.window
        if not paused and facts.wall_time - self._since < _TELL_SECONDS:
            return []
        start = before if paused else self._since
        self._since, self._drops = facts.wall_time, facts.dropped
        if facts.wall_time < start:
            return []
        losses = [(cause, count) for cause, count in dropped.items() if count and (paused or count >= self.ticks)]
        if paused and (not losses or slept(start, facts.wall_time)):
            cause = "suspended" if slept(start, facts.wall_time) else "no_pictures"
            losses = [(cause, sum(count for _, count in losses))]
        return [Loss(opened, cause, count, start, facts.wall_time) for cause, count in losses]

    def gone(self, now: float) -> None:
        """Take the beginning of an outage that is noticed ``now``."""
        self._told = now if self.last is None else self._told
        self.away = now if self.last is None else min(self.last, now)

    def missing_since(self, now: float) -> float | None:
        """Return since when nothing good came, where that goes on and is to be told (again) ``now``."""
        since = self.last if self.away is None else self.away
        # Of a clock that was set back, too.
        if since is None or abs(now - self._told) < _TELL_SECONDS:
            return None
        self._told = now
        return min(since, now)

    def back(self) -> float | None:
        """Return since when the source was away; the pause before the next good frame is no other."""
        since, self.away = self.away, None
        self.last = self.last if since is None else None
        return since
