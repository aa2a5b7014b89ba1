"""What is known of each source of a run, from its events: whether it moves and why not, and how much came of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamfer.records import ClipLabelled, Gap, Record, SourceStateChanged

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.pipeline.events import Event, FrameFaces

#: Beyond what makes a stall, which a source notices and tells by itself.
_GRACE_SECONDS = 10.0
_STALL_PERIODS = 5
#: Sources that are remembered, those that have ended included.
_MOST = 1024
#: Upper limits of the groups that latencies are counted in, seconds.
LATENCIES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.3, 2.0, 3.0, 5.0, 10.0, 30.0, float("inf"))
_LOST = {"online": "lost", "connecting": "no_picture"}


@dataclass(slots=True)
class Standing:
    """One source as it is now."""

    state: str = "connecting"  #: as in its last record of state
    reason: str = ""
    attempt: int = 0
    epoch: int = 0
    since: float = field(default_factory=time.time)  #: Unix time of that
    moved: float = field(default_factory=time.monotonic)  #: monotonic time of its last sign of life
    #: Unix time of the capture of the newest picture that was analysed; None where it has none.
    newest: float | None = None
    period: float = 0.0  #: seconds between two pictures, as far as it says
    index: tuple[int, int] = (-1, -1)  #: of the latest picture of the epoch
    dropped: dict[str, int] = field(default_factory=dict)  #: pictures by cause, as it counts them
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  #: by metric and label
    #: Clips in each group of :data:`LATENCIES`, and the sum of their seconds.
    latencies: tuple[Counter[float], float] = field(default_factory=lambda: (Counter(), 0.0))

    @property
    def lag(self) -> float | None:
        """Seconds from now back to the capture of the newest analysed picture, while it is online."""
        return max(0.0, time.time() - self.newest) if self.newest is not None and self.state == "online" else None

    def take_record(self, record: Record) -> None:
        """Take in a record of the source."""
        data = record.data
        if isinstance(data, SourceStateChanged):
            if data.state == "backoff":
                self.counts["reconnects", _LOST.get(self.state, self.state)] += 1
            self.state, self.reason, self.attempt, self.epoch = data.state, data.reason, data.attempt, data.epoch
            self.since = data.wall_time
        elif isinstance(data, Gap):
            self.counts["gaps", data.cause] += 1
        elif isinstance(data, ClipLabelled):
            took = data.latency_ms
            seconds = (took.total if took.lag is None else took.lag) / 1000
            groups, whole = self.latencies
            groups[next(limit for limit in LATENCIES if seconds <= limit)] += 1
            self.latencies = groups, whole + seconds

    def take_frame(self, frame: FrameFaces) -> None:
        """Take in an analysed picture of the source."""
        before = self.index[1] if frame.epoch == self.index[0] else -1
        self.index, self.newest = (frame.epoch, frame.index), frame.newest
        self.counts["frames", "decoded"] += max(0, frame.index - before)
        self.counts["frames", "analysed"] += 1
        for cause, count in frame.dropped.items():
            self.counts["frames_dropped", cause] += max(0, count - self.dropped.get(cause, 0))
        self.dropped = dict(frame.dropped)


class Board:
    """Follows the events of a session's run; safe to read from other threads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._standings: dict[str, Standing] = {}

    def take(self, event: Event) -> None:
        """Take in what an event says."""
        from streamfer.pipeline.events import FrameFaces, SourceOpened

        source_id = event.subject if isinstance(event, Record) else event.source_id
        with self._lock:
            if source_id not in self._standings and len(self._standings) >= _MOST:
                ended = (name for name, known in self._standings.items() if known.state == "ended")
                self._standings.pop(next(ended, ""), None)
            known = self._standings.setdefault(source_id, Standing())
            known.moved = time.monotonic()
            if isinstance(event, Record):
                known.take_record(event)
            elif isinstance(event, FrameFaces):
                known.take_frame(event)
            elif isinstance(event, SourceOpened) and event.info.declared_fps:
                known.period = 1 / event.info.declared_fps

    def standings(self) -> dict[str, Standing]:
        """Return what is known of every source that the run has had."""
        with self._lock:
            return dict(self._standings)

    def stuck(self) -> dict[str, str]:
        """Return which sources are online and do not move, and for how long: nobody knows why."""
        now, found = time.monotonic(), {}
        specs = self._session.run.specs if self._session.run else {}
        for source_id, known in self.standings().items():
            own = specs[source_id].stall_timeout if source_id in specs else None
            stall = own or self._session.config.live.stall_timeout
            limit = max(stall, _STALL_PERIODS * known.period) + _GRACE_SECONDS
            if known.state == "online" and now - known.moved > limit:
                found[source_id] = f"online, and no picture was analysed for {now - known.moved:.0f} s"
        return found
