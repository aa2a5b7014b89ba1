"""Sources that never end by themselves: cameras, servers, what is sent to a port; reopened for ever."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from streamfer.config import LiveConfig
from streamfer.errors import SourceDeniedError, SourceError, SourceUnreachableError, SourceUnreadableError
from streamfer.video.clock import Nap
from streamfer.video.connection import Arrival, Connection, Lost, Opened
from streamfer.video.frame_line import FrameLine
from streamfer.video.frames import Frame, FrameFilter, StateChange
from streamfer.video.locate import SourceSpec
from streamfer.video.playlist import Playlist

_POLL_SECONDS = 0.1
_STALL_PERIODS = 5
_JITTER = 0.5
_SETTLED_SECONDS = 10.0
_END_SLACK_SECONDS = 1.0
_DENIED_SECONDS = 60.0
#: Attempts that do not come back out of FFmpeg, for each source; each holds a thread and some megabytes.
_MOST_STUCK = 4

log = logging.getLogger(__name__)


def reconnect_delay(settings: LiveConfig, attempt: int, rng: random.Random) -> float:
    """Seconds to wait before reconnect ``attempt`` (from 1): doubled each time, capped, half of it by chance."""
    # The exponent is bounded so that a camera that stays dark for a year cannot overflow a float.
    full = min(settings.backoff_cap, settings.backoff_first * 2.0 ** min(attempt - 1, 64))
    return full * (1 - _JITTER * rng.random())


class LiveSource:
    """A camera or stream that is reopened whenever it breaks, each time in a new epoch.

    No frame is dropped here: who must keep up drops them after the iterator.
    A source whose length is known (video on demand over RTSP or HLS) ends at its end.

    Args:
        spec: what to open, from :func:`streamfer.video.locate.find_sources`.
        settings: how long to wait and how to come back; the defaults if unset.
        gpu: number of the GPU that decodes; None: the CPU does.
        sleep: replaces the wait between attempts (tests).
    """

    def __init__(
        self,
        spec: SourceSpec,
        settings: LiveConfig | None = None,
        *,
        decode_threads: int = 1,
        gpu: int | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.spec = spec
        self.settings = settings or LiveConfig()
        self.decode_threads = decode_threads
        self.gpu, self._avoids_gpu = gpu, False  # the second: whether the next connection decodes on the CPU
        self._rng = rng or random.Random()  # noqa: S311  (jitter, not a secret)
        self._stop = threading.Event()
        self._sleep = sleep
        self.frames_decoded = 0  #: since the last call of :meth:`stream`
        self._ends = False
        self._transport = "tcp" if self.settings.transport == "auto" else self.settings.transport
        self._stuck: list[Connection] = []
        self._totals: Counter[str] = Counter()
        self._playlist = Playlist()

    @property
    def source_id(self) -> str:
        """Stable name, free of credentials."""
        return self.spec.source_id

    @property
    def live(self) -> bool:
        """Whether frames may be dropped to keep up: not those of what turned out, once open, to have an end."""
        return not self._ends

    def close(self) -> None:
        """End the iteration within a fraction of a second, also from another thread and during a wait; for good."""
        self._stop.set()

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        """Yield ``connecting``, ``online``, frames; ``stalled``, ``auth_failed``, ``backoff`` between connections.

        A clock that jumps back or far ahead within a connection yields ``online`` again, with the new epoch.
        ``ended`` comes last, after :meth:`close` or at the end of a source of known length.

        Raises:
            SourceError: the first attempt gave no picture, and ``wait`` is off.
        """
        self.frames_decoded = 0
        epoch = attempt = 0
        was_online = False
        while not self._stop.is_set():
            yield StateChange("connecting", epoch, time.time(), attempt=attempt)
            outcome = yield from self._connected(epoch, wanted)
            epoch = outcome.epoch
            if outcome.complete or self._stop.is_set():
                break
            untried = self.gpu is not None and self._avoids_gpu  # the GPU made no picture of what came: the CPU may
            hopeful = self.settings.wait or was_online or outcome.online_seconds is not None or untried
            if outcome.error is not None and not hopeful:
                raise outcome.error
            if outcome.online_seconds is not None:
                was_online = True
                epoch += 1
                attempt = 0 if outcome.online_seconds >= _SETTLED_SECONDS else attempt
            attempt += 1
            reason = str(outcome.error) if outcome.error else f"{self.spec.location}: the other side ended the stream"
            delay = reconnect_delay(self.settings, attempt, self._rng)
            if isinstance(outcome.error, SourceDeniedError):
                # Cameras lock accounts out that fail too often.
                delay = max(delay, _DENIED_SECONDS)
                reason += f"; tried again once in {delay:.0f} s"
                yield StateChange("auth_failed", epoch, time.time(), reason=reason, attempt=attempt)
            yield StateChange("backoff", epoch, time.time(), reason=reason, attempt=attempt, delay=delay)
            (self._sleep or self._stop.wait)(delay)
        yield StateChange("ended", epoch, time.time(), reason="closed on request" if self._stop.is_set() else "")

    def _connected(self, epoch: int, wanted: FrameFilter | None) -> Generator[Frame | StateChange, None, _Outcome]:
        """Hold one connection from opening to loss."""
        self._stuck = [connection for connection in self._stuck if connection.alive]
        if len(self._stuck) >= _MOST_STUCK:
            reason = f"{self.spec.location}: {len(self._stuck)} attempts are stuck in FFmpeg; waiting for one to end"
            return _Outcome(epoch, SourceUnreachableError(reason), None)
        # Who receives holds a port, which the next connection needs.
        patience = 0.0 if self.spec.received else self.settings.open_timeout / 2
        connection = Connection(
            self.spec,
            decode_threads=self.decode_threads,
            timeout=max(patience, self.settings.stall_timeout),
            within=self.settings.open_timeout + _END_SLACK_SECONDS / 4,
            transport=self._transport,
            gpu=None if self._avoids_gpu else self.gpu,
            lost=self._totals,
            playlist=self._playlist,
        )
        outcome: _Outcome | None = None
        try:
            outcome = yield from self._watched(connection, epoch, wanted)
        finally:
            connection.abandon()
            if connection.alive:
                log.warning("source.stuck", extra={"source": self.source_id, "attempts": len(self._stuck) + 1})
                self._stuck.append(connection)
        no_picture = outcome.online_seconds is None and not isinstance(outcome.error, SourceDeniedError)
        if self.settings.transport == "auto" and no_picture:
            self._transport = "udp" if self._transport == "tcp" else "tcp"
        return outcome

    def _watched(
        self, connection: Connection, epoch: int, wanted: FrameFilter | None
    ) -> Generator[Frame | StateChange, None, _Outcome]:
        opened: Opened | None = None
        line: FrameLine | None = None
        online_since = 0.0
        deadline = time.monotonic() + self.settings.open_timeout
        while not self._stop.is_set():
            nap = Nap()
            event = connection.next_event(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            due = time.monotonic() >= deadline - _END_SLACK_SECONDS  # FFmpeg's patience ends with ours, or just before
            if line is not None and nap.seconds > self._stall_limit(line.opened) and not self._ends:
                slept = f"this process did not run for {nap.seconds:.0f} s; what came meanwhile is given up"
                return (yield from self._stalled(line, epoch, online_since, slept))
            if isinstance(event, Opened):
                opened, self._ends = event, event.ends
                self._avoids_gpu = not self._avoids_gpu  # where no picture follows, the other decoder is next
            elif isinstance(event, Lost) and not (line and event.silent and due):
                return self._lost(event, line, epoch, online_since)
            elif isinstance(event, Arrival) and opened is not None:
                self.frames_decoded += 1
                if line is None:
                    self._avoids_gpu = not self._avoids_gpu  # it was followed by one: this decoder stays
                    line = FrameLine(self.spec, opened, epoch, self._stall_limit(opened))
                    online_since = time.monotonic()
                yield from line.advance(event, wanted)
                # After the frame was taken: a slow consumer is no stall of the source.
                deadline = time.monotonic() + self._stall_limit(opened)
                if line.late > self._stall_limit(opened) and not self._ends:
                    # The other side has the backlog: a new connection begins with what is new.
                    late = f"its pictures come {line.late:.0f} s late: the link is slower than the stream"
                    return (yield from self._stalled(line, epoch, online_since, late))
            elif isinstance(event, Lost) or time.monotonic() >= deadline:
                return (yield from self._stalled(line, epoch, online_since))
        return _Outcome(line.epoch if line else epoch, None, None)

    def _lost(self, event: Lost, line: FrameLine | None, epoch: int, online_since: float) -> _Outcome:
        if line is None:
            nothing = SourceUnreadableError(f"{self.spec.location}: it ended without a picture; check the URL")
            return _Outcome(epoch, event.error or nothing, None)
        length = line.opened.duration
        whole = length is None or line.end >= length - _END_SLACK_SECONDS
        complete = event.error is None and line.opened.ends and whole
        return _Outcome(line.epoch, event.error, time.monotonic() - online_since, complete)

    def _stalled(
        self, line: FrameLine | None, epoch: int, online_since: float, why: str = ""
    ) -> Generator[StateChange, None, _Outcome]:
        limit = self._stall_limit(line.opened) if line else self.settings.open_timeout
        told = "check that it still sends" if line else "check that it is switched on and reachable"
        why = why or f"no picture for {limit:g} s; {told}"
        error = SourceUnreachableError(f"{self.spec.location}: {why}")
        if line is None:
            return _Outcome(epoch, error, None)
        yield StateChange("stalled", line.epoch, time.time(), reason=str(error))
        return _Outcome(line.epoch, error, time.monotonic() - online_since)

    def _stall_limit(self, opened: Opened) -> float:
        """Seconds without a frame that are a stall: of a camera that sends one a minute, ten are none."""
        return max(self.settings.stall_timeout, _STALL_PERIODS / opened.rate if opened.rate else 0.0)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a connection went: ``online_seconds`` is None when no frame came, ``complete`` at a known end."""

    epoch: int
    error: SourceError | None
    online_seconds: float | None
    complete: bool = False
