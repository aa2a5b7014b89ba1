"""Sources that never end by themselves: RTSP, RTMP, HTTP streams and webcams, reopened for ever."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from streamfer.errors import (
    ConfigError,
    SourceDeniedError,
    SourceError,
    SourceUnreachableError,
    SourceUnreadableError,
)
from streamfer.video.connection import Arrival, Connection, Lost, Opened
from streamfer.video.frame_line import FrameLine
from streamfer.video.frames import Frame, FrameFilter, StateChange
from streamfer.video.locate import SourceSpec

_POLL_SECONDS = 0.1
_MIN_STALL_SECONDS = 10.0
_STALL_PERIODS = 5
_SETTLED_SECONDS = 10.0
_END_SLACK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before reconnect attempt 1, 2, ...: ``initial * factor**n``, capped, then jittered.

    Attributes:
        initial: seconds before the first attempt, unjittered.
        factor: growth from one attempt to the next.
        cap: longest wait, seconds.
        jitter: share of a wait that is random: 0 none, 0.5 between half and all of it.
    """

    initial: float = 1.0
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.initial < 0 or self.factor < 1 or self.cap < self.initial or not 0 <= self.jitter <= 1:
            raise ConfigError(f"{self}: needs 0 <= initial <= cap, factor >= 1 and jitter between 0 and 1")

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait before ``attempt`` (from 1)."""
        # The exponent is bounded so that a camera that stays dark for a year cannot overflow a float.
        full = min(self.cap, self.initial * self.factor ** min(attempt - 1, 64))
        return full * (1 - self.jitter * rng.random())


class LiveSource:
    """A camera or stream that is reopened whenever it breaks, each time in a new epoch.

    Only its configuration pickles. No frame is dropped here: who must keep up drops them after the iterator.
    A source whose length is known (video on demand over RTSP or HLS) ends at its end.

    Args:
        spec: what to open, from :func:`streamfer.video.locate.find_sources`.
        decode_threads: threads FFmpeg may decode with.
        transport: RTSP transport, ``tcp`` or ``udp``.
        open_timeout: seconds from connecting to the first frame.
        stall_seconds: seconds without a frame before the source is given up and reopened; None: ten, or
            five frame periods where that is longer.
        first_open: what to do when nothing answers at the very first attempt: ``fail`` raises, ``retry`` goes on.
        backoff: waits between attempts.
        rng: source of the jitter.
        sleep: replaces the wait between attempts (tests).
    """

    def __init__(
        self,
        spec: SourceSpec,
        *,
        decode_threads: int = 1,
        transport: Literal["tcp", "udp"] = "tcp",
        open_timeout: float = 20.0,
        stall_seconds: float | None = None,
        first_open: Literal["fail", "retry"] = "fail",
        backoff: Backoff | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.spec = spec
        self.decode_threads = decode_threads
        self.transport = transport
        self.open_timeout = open_timeout
        self.stall_seconds = stall_seconds
        self.first_open = first_open
        self.backoff = backoff or Backoff()
        self._rng = rng or random.Random()  # noqa: S311  (jitter, not a secret)
        self._stop = threading.Event()
        self._sleep = sleep
        self._decoded = 0
        self._ends = False

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_stop"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._stop = threading.Event()

    @property
    def source_id(self) -> str:
        """Stable name, free of credentials."""
        return self.spec.source_id

    @property
    def live(self) -> bool:
        """Whether frames may be dropped to keep up: not those of what turned out, once open, to have an end."""
        return not self._ends

    @property
    def frames_decoded(self) -> int:
        """Frames decoded since the last call of :meth:`stream`."""
        return self._decoded

    def close(self) -> None:
        """End the iteration within a fraction of a second, also from another thread and during a wait; for good."""
        self._stop.set()

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        """Yield ``connecting``, ``online``, frames; ``stalled``, ``auth_failed``, ``backoff`` between connections.

        A clock that jumps back or far ahead within a connection yields ``online`` again, with the new epoch.
        ``ended`` comes last, after :meth:`close` or at the end of a source of known length.

        Raises:
            SourceDeniedError: credentials refused before the source was ever online.
            SourceNotFoundError: the server has nothing under this address, or there is no such camera; likewise.
            SourceUnreadableError: what comes is no video; likewise.
            SourceUnreachableError: nothing answers at the first attempt, and ``first_open`` is ``fail``.
        """
        self._decoded = 0
        epoch = attempt = 0
        was_online = False
        while not self._stop.is_set():
            yield StateChange("connecting", epoch, time.time(), attempt=attempt)
            outcome = yield from self._connected(epoch, wanted)
            epoch = outcome.epoch
            if outcome.complete or self._stop.is_set():
                break
            if outcome.error is not None and not (was_online or outcome.online_seconds is not None):
                self._give_up_unless_it_may_pass(outcome.error)
            if outcome.online_seconds is not None:
                was_online = True
                epoch += 1
                attempt = 0 if outcome.online_seconds >= _SETTLED_SECONDS else attempt
            attempt += 1
            reason = str(outcome.error) if outcome.error else f"{self.spec.location}: the other side ended the stream"
            if isinstance(outcome.error, SourceDeniedError):
                yield StateChange("auth_failed", epoch, time.time(), reason=reason, attempt=attempt)
            delay = self.backoff.delay(attempt, self._rng)
            yield StateChange("backoff", epoch, time.time(), reason=reason, attempt=attempt, delay=delay)
            (self._sleep or self._stop.wait)(delay)
        yield StateChange("ended", epoch, time.time(), reason="closed on request" if self._stop.is_set() else "")

    def _give_up_unless_it_may_pass(self, error: SourceError) -> None:
        if self.first_open == "fail" or not isinstance(error, SourceUnreachableError):
            raise error

    def _connected(self, epoch: int, wanted: FrameFilter | None) -> Generator[Frame | StateChange, None, _Outcome]:
        """Hold one connection from opening to loss."""
        connection = Connection(
            self.spec,
            decode_threads=self.decode_threads,
            timeout=max(self.open_timeout / 2, self.stall_seconds or _MIN_STALL_SECONDS),
            transport=self.transport,
        )
        try:
            return (yield from self._watched(connection, epoch, wanted))
        finally:
            connection.abandon()

    def _watched(
        self, connection: Connection, epoch: int, wanted: FrameFilter | None
    ) -> Generator[Frame | StateChange, None, _Outcome]:
        opened: Opened | None = None
        line: FrameLine | None = None
        online_since = 0.0
        deadline = time.monotonic() + self.open_timeout
        while not self._stop.is_set():
            event = connection.next_event(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            if isinstance(event, Opened):
                opened, self._ends = event, event.ends
            elif isinstance(event, Lost):
                return self._lost(event, line, epoch, online_since)
            elif isinstance(event, Arrival) and opened is not None:
                self._decoded += 1
                if line is None:
                    line = FrameLine(self.spec, opened, epoch, self._stall_limit(opened))
                    online_since = time.monotonic()
                yield from line.advance(event, wanted)
                # After the frame was taken: a slow consumer is no stall of the source.
                deadline = time.monotonic() + self._stall_limit(opened)
            elif time.monotonic() >= deadline:
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
        self, line: FrameLine | None, epoch: int, online_since: float
    ) -> Generator[StateChange, None, _Outcome]:
        limit = self._stall_limit(line.opened) if line else self.open_timeout
        error = SourceUnreachableError(f"{self.spec.location}: no picture for {limit:g} s; check that it still sends")
        if line is None:
            return _Outcome(epoch, error, None)
        yield StateChange("stalled", line.epoch, time.time(), reason=str(error))
        return _Outcome(line.epoch, error, time.monotonic() - online_since)

    def _stall_limit(self, opened: Opened) -> float:
        if self.stall_seconds is not None:
            return self.stall_seconds
        return max(_MIN_STALL_SECONDS, _STALL_PERIODS / opened.rate if opened.rate else 0.0)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a connection went: ``online_seconds`` is None when no frame came, ``complete`` at a known end."""

    epoch: int
    error: SourceError | None
    online_seconds: float | None
    complete: bool = False
