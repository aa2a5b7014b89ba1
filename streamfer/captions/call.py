"""Calling a captioner with a time limit: a call that hangs is given up, and the captioner is told to let go."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from streamfer.captions.clips import context_of
from streamfer.captions.context import ContextCaptioner
from streamfer.captions.protocol import Caption, Captioner
from streamfer.errors import StreamferError
from streamfer.pipeline.observer import ObservedClip

_POLL_SECONDS = 0.1


@runtime_checkable
class Abortable(Protocol):
    """A captioner that can be torn away from a batch."""

    def abort(self) -> None:
        """Make the call that is in progress fail soon; from any thread."""


class CaptionCallError(Exception):
    """A batch got no captions; ``cause`` is the word for it that a gap carries."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class CaptionCall:
    """Calls a captioner, each time in a thread of its own.

    Args:
        captioner: the model.
        stop: set when the run is to end soon.
        grace: seconds that a call may still take from then on.
    """

    def __init__(self, captioner: Captioner, stop: threading.Event, *, grace: float) -> None:
        self._captioner = captioner
        self._stop = stop
        self._grace = grace
        self._hanging: threading.Thread | None = None

    def run(self, jobs: Sequence[ObservedClip], *, timeout: float) -> list[Caption]:
        """Describe clips.

        Raises:
            CaptionCallError: the captioner failed, took longer than ``timeout`` seconds, or is still busy with a
                call that did.
        """
        if self._hanging is not None and self._hanging.is_alive():
            raise CaptionCallError("captioner_timeout", "the captioner still hangs in an earlier batch")
        results: list[list[Caption] | Exception] = []

        def call() -> None:
            try:
                results.append(self._describe(jobs))
            except Exception as error:
                results.append(error)

        thread = threading.Thread(target=call, name="streamfer caption batch", daemon=True)
        thread.start()
        self._wait(thread, timeout)
        if not results:
            self._let_go(thread)
            raise CaptionCallError("captioner_timeout", f"no caption within {timeout:g} s")
        found = results[0]
        if isinstance(found, Exception):
            raise CaptionCallError("captioner_failed", _said(found)) from found
        if len(found) != len(jobs):
            raise CaptionCallError("captioner_failed", f"{len(found)} captions for {len(jobs)} clips")
        return found

    def _describe(self, jobs: Sequence[ObservedClip]) -> list[Caption]:
        clips = [job.keyframes.portraits for job in jobs]
        if isinstance(self._captioner, ContextCaptioner):
            return self._captioner.describe(clips, [context_of(job) for job in jobs])
        return self._captioner.caption(clips)

    def _wait(self, thread: threading.Thread, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        stopped = False
        while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            thread.join(min(left, _POLL_SECONDS))
            if self._stop.is_set() and not stopped:
                stopped, deadline = True, min(deadline, time.monotonic() + self._grace)

    def _let_go(self, thread: threading.Thread) -> None:
        if isinstance(self._captioner, Abortable):
            self._captioner.abort()
            thread.join(self._grace)
        self._hanging = thread


def _said(error: Exception) -> str:
    """Return one line about an error; a foreign one with its kind."""
    line = (str(error).strip() or "no message").splitlines()[0]
    return line if isinstance(error, StreamferError) else f"{type(error).__name__}: {line}"
