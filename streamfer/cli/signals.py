"""Ctrl-C and SIGTERM: the first one ends a run in order, and the exit code says which it was."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamfer.api import Session

#: What a shell reports of a process that Ctrl-C ended.
INTERRUPTED = 128 + signal.SIGINT


@dataclass(slots=True)
class Stop:
    """The signal that ended a run, or None."""

    number: int | None = None

    def code(self, *, terminated: int = 128 + signal.SIGTERM) -> int:
        """Return the exit code: 0 where nothing was interrupted, ``terminated`` after SIGTERM."""
        if self.number is None:
            return 0
        return INTERRUPTED if self.number == signal.SIGINT else terminated


@contextmanager
def stopping(session: Session) -> Iterator[Stop]:
    """Let the first SIGINT or SIGTERM end the session's run in order; a second one ends the process at once."""
    told = Stop()

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        told.number = number
        for either in (signal.SIGINT, signal.SIGTERM):
            signal.signal(either, signal.SIG_DFL)
        if not session.stop():
            # Nothing runs yet: there is nothing to end in order.
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
