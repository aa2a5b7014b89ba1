"""Calling a writer with a time limit: a call that hangs is given up, and the writer is told to let go."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from streamfer.captions.protocol import Caption, CaptionError, CaptionRequest, Writer, first_line

_POLL_SECONDS = 0.1
#: A model that takes longer than this to load is taken for one that hangs.
_LONGEST_LOADING = 900.0


class CaptionCall:
    """Calls a writer; one that may hang, each time in a thread of its own.

    Args:
        writer: who writes.
        stop: set when the run is to end soon.
        grace: seconds that a call may still take from then on.
    """

    def __init__(self, writer: Writer, stop: threading.Event, *, grace: float) -> None:
        self._writer = writer
        self._stop = stop
        self._grace = grace
        self._hanging: threading.Thread | None = None

    def run(self, requests: Sequence[CaptionRequest], *, timeout: float) -> list[Caption | CaptionError]:
        """Describe clips; ``timeout`` in seconds counts from when the writer has loaded.

        Raises:
            CaptionError: the writer failed, took too long, or is still busy with a call that did.
        """
        if not self._writer.remote:
            return self._writer.write(requests)
        if self._hanging is not None and self._hanging.is_alive():
            raise CaptionError("captioner_timeout", "the captioner still hangs in an earlier batch")
        results: list[list[Caption | CaptionError] | Exception] = []

        def call() -> None:
            try:
                results.append(self._writer.write(requests))
            except Exception as error:
                results.append(error)

        thread = threading.Thread(target=call, name="streamfer caption batch", daemon=True)
        thread.start()
        self._wait(thread, timeout)
        if not results:
            self._writer.abort()
            thread.join(self._grace)
            self._hanging = thread
            raise CaptionError("captioner_timeout", f"no caption within {timeout:g} s")
        found = results[0]
        if isinstance(found, Exception):
            raise CaptionError("captioner_failed", f"{type(found).__name__}: {first_line(found)}") from found
        return found

    def _wait(self, thread: threading.Thread, timeout: float) -> None:
        began = time.monotonic()
        deadline, stop_by = began + timeout, float("inf")
        while thread.is_alive():
            now = time.monotonic()
            if self._stop.is_set():
                stop_by = min(stop_by, now + self._grace)
            if self._writer.loading and now - began < _LONGEST_LOADING:
                deadline = now + timeout
            if (left := min(deadline, stop_by) - now) <= 0:
                return
            thread.join(min(left, _POLL_SECONDS))
