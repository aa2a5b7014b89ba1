"""Printing beside the work: a terminal that is held, or a pipe that nobody reads, costs lines and nothing else."""

from __future__ import annotations

import contextlib
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import IO

from streamfer.cli.terminal import note
from streamfer.closing import Closing

_MOST_LINES = 2000
_LOOK_SECONDS = 0.2
_END_SECONDS = 1.0


class Printer(Closing):
    """Prints lines in order from a thread of its own, as long as they can be written without waiting.

    ``broken`` is called once when nobody reads standard output any more.
    """

    def __init__(self, broken: Callable[[], object]) -> None:
        self._broken = broken
        self._lines: deque[tuple[str, bool]] = deque(maxlen=_MOST_LINES)
        self._lost = 0
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="streamfer print", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Print what waits, for a second at most."""
        self._ended.set()
        self._changed.set()
        self._thread.join(_END_SECONDS)

    def say(self, line: str, *, note: bool = False) -> None:
        """Print a line: a result on standard output, or a note on standard error."""
        self._lost += len(self._lines) == _MOST_LINES
        self._lines.append((line, note))
        self._changed.set()

    def _work(self) -> None:
        while not (self._ended.is_set() and not self._lines):
            self._changed.wait()
            self._changed.clear()
            while self._lines:
                line, as_note = self._lines[0]
                stream = sys.stderr if as_note else sys.stdout
                if not _writable(stream):
                    if self._ended.is_set():
                        return
                    continue
                with contextlib.suppress(IndexError):
                    self._lines.popleft()
                try:
                    if as_note:
                        note(line)
                    else:
                        print(line, file=stream, flush=True)
                except BrokenPipeError:
                    self._broken()
                    return
            if self._lost:
                lost, self._lost = self._lost, 0
                self.say(f"{lost} lines were not printed: nobody read them in time", note=True)


def _writable(stream: IO[str]) -> bool:
    """Whether a line can be written now; a pipe says so while it has room for a page."""
    try:
        return bool(select.select([], [stream], [], _LOOK_SECONDS)[1])
    except (OSError, ValueError, TypeError):
        return True
