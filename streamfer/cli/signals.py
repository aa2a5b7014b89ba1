"""Ctrl-C and SIGTERM: the first one ends a run in order, and the exit code says which it was."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from streamfer.cli.terminal import complain, note
from streamfer.errors import ConfigError, StreamferError
from streamfer.redaction import redact_text

if TYPE_CHECKING:
    from streamfer.api import Session

#: What a shell reports of a process that Ctrl-C ended.
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
_REPEATED_SECONDS = 0.05


@dataclass(slots=True)
class Stop:
    """The signal that ended a run, or None."""

    number: int | None = None
    terminated: int = TERMINATED
    early: bool = False  #: it came while nothing ran

    def code(self) -> int:
        """Return the exit code: 0 where nothing was interrupted, ``terminated`` after SIGTERM."""
        if self.number is None:
            return 0
        return INTERRUPTED if self.number == signal.SIGINT else self.terminated


@contextmanager
def stopping(session: Session, *, terminated: int = TERMINATED) -> Iterator[Stop]:
    """Let the first SIGINT or SIGTERM end the session's run in order; a second one ends the process at once.

    SIGHUP reads the configuration's file again; where it is broken, the old one stays. ``terminated`` is the exit code
    after SIGTERM.
    """
    told = Stop(terminated=terminated)

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        told.number = number
        _let_another_end(signal.SIGINT, signal.SIGTERM)
        if not session.stop():
            # Nothing runs yet, or any more: there is nothing to end in order. What is raised where modules are read or
            # objects die may be lost there, or come out as another error; then the run that begins is ended.
            told.early = True
            _thread.start_new_thread(_insist, (session,))
            raise SystemExit(told.code()) if number == signal.SIGTERM else KeyboardInterrupt

    def hang_up(number: int, frame: FrameType | None) -> None:
        del number, frame
        # Not here: the signal may have come while the run holds what reloading needs.
        threading.Thread(target=_reload, args=(session,), name="streamfer reload", daemon=True).start()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = hang_up
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield told
    except Exception:
        if not told.early:
            raise
        raise SystemExit(told.code()) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def first_of(*numbers: int) -> threading.Event:
    """Return an event that the first of these signals sets; another one then ends the process at once.

    Unlike KeyboardInterrupt it cannot be lost in what is under way when the signal comes.
    """
    told = threading.Event()

    def tell(_number: int, _frame: FrameType | None) -> None:
        _let_another_end(*numbers)
        told.set()

    for number in numbers:
        signal.signal(number, tell)
    return told


def _let_another_end(*numbers: int) -> None:
    """Have another signal of these end the process at once; not the same one, which ``timeout`` sends twice."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(_REPEATED_SECONDS)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


def _insist(session: Session) -> None:
    while not session.stop():
        time.sleep(0.1)


def _reload(session: Session) -> None:
    if session.reread is None:
        complain("SIGHUP: there is no --config file to read again; everything stays as it is")
        return
    try:
        if session.run is None:
            raise ConfigError("nothing runs yet, or any more")
        changed, stay = session.run.reload(session.reread())
    except StreamferError as error:
        complain(f"SIGHUP: the old configuration stays: {redact_text(str(error))}")
        return
    note(f"reloaded; sources changed: {', '.join(changed) or 'none'}")
    if stay:
        complain(f"SIGHUP: {', '.join(stay)} changed in the file, which a restart alone takes over")
