"""Status hashes in Redis that live as long as their sources do, written by a thread of their own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from streamfer.redaction import redact_text

_EVERY_SECONDS = 10.0
_END_SECONDS = 1.0

log = logging.getLogger(__name__)
Status = Mapping[str, str | int | float]


class Heartbeats:
    """Has every source's status written at once when its state changes, and every ten seconds while it is analysed.

    ``write`` may be slow, or fail; ``more`` is asked ahead of it for what is known of a source beside its last status.
    """

    def __init__(
        self, write: Callable[[Mapping[str, Status]], None], more: Callable[[str], Status] = lambda _source: {}
    ) -> None:
        self._write = write
        self._more = more
        self._lock = threading.Lock()
        self._statuses: dict[str, Status] = {}
        self._due = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="streamfer heartbeat", daemon=True)
        self._thread.start()

    def note(self, source_id: str, **status: str | int | float) -> None:
        """Note what is new of a source, at once visible where its state is."""
        with self._lock:
            before = self._statuses.get(source_id, {})
            self._statuses[source_id] = {**before, **status}
        if "state" in status and status["state"] != before.get("state"):
            self._due.set()

    def status(self) -> dict[str, Status]:
        """Return what is known of every source."""
        with self._lock:
            known = dict(self._statuses)
        return {source_id: {**status, **self._more(source_id)} for source_id, status in known.items()}

    def close(self) -> None:
        """Write the last states; waits a second at most."""
        self._ended = True
        self._due.set()
        self._thread.join(_END_SECONDS)

    def _work(self) -> None:
        ended = False
        while not ended:
            self._due.wait(_EVERY_SECONDS)
            self._due.clear()
            ended = self._ended
            statuses = self.status()
            if not statuses:
                continue
            try:
                self._write(statuses)
            except Exception as error:
                # Records wait for Redis to come back; a heartbeat that is late is of no use to anybody. A client whose
                # connections are broken at the end of a run raises whatever it comes upon.
                log.info("publish.heartbeat_lost", extra={"reason": redact_text(str(error))})
            with self._lock:
                for source_id, status in statuses.items():
                    if status.get("state") == "ended" and self._statuses.get(source_id, {}).get("state") == "ended":
                        del self._statuses[source_id]
