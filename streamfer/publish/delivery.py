"""The thread that publishes: nobody who makes records waits for Redis, and no trouble of Redis ends a run."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import Self

import platformdirs

from streamfer.closing import Closing
from streamfer.config import PublishConfig
from streamfer.errors import PublishError
from streamfer.publish.append import Fields, ForgottenError
from streamfer.publish.connection import TROUBLE, Told, explain
from streamfer.publish.embedded import default_folder
from streamfer.publish.publisher import Numbering, Publisher
from streamfer.publish.spool import Spool
from streamfer.records import Record
from streamfer.redaction import redact_text, redact_url

_BATCH = 256
_LOOK_SECONDS = 1.0
_ROOM_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.1
# Records are fresh again within a second of a trouble's end.
_LONGEST_PAUSE_SECONDS = 0.5
_MOST_RECENT = 50_000
_END_SECONDS = 2.0

log = logging.getLogger(__name__)


class Delivery(Closing):
    """Takes records at once and brings them to Redis in order, in a thread of its own, however long that takes.

    Acknowledged is not durable: a server that is killed, or gives way to a replica, may forget what it has just taken.
    So what was acknowledged within the last seconds (``window``) is kept, and sent again when another run of the server
    answers. Publisher and spool are closed with the delivery.
    """

    def __init__(self, publisher: Publisher, spool: Spool, window: float = 5.0) -> None:
        self.publisher = publisher
        self._spool = spool
        self._window = window
        self._numbering = Numbering(publisher.keys)
        self._recent: deque[tuple[float, Fields]] = deque()
        self._runs: dict[int, str] = {}
        self._forgotten = False
        self._next_look = 0.0
        self._seen = time.monotonic()
        self.trouble = ""  #: why nothing is published now; empty where all is well
        self._told = Told()
        self._next_room = 0.0
        self._said = ""
        self._end: float | None = None
        self._nudge = threading.Event()
        self.published = self.sent_again = self.errors = 0  #: counts of records, and of troubles
        self.left = ""  #: after the end, one line on what is left; empty where nothing is
        self._thread = threading.Thread(target=self._work, name="streamfer publish", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, config: PublishConfig, *, waits: bool = True) -> Self:
        """Deliver to the configured Redis, or to the embedded server; it ``waits`` where that is away at the start.

        Raises:
            PublishError: the URL is wrong, the server refuses the credentials, it is no Redis, or, unless
                ``waits``, it cannot be reached.
            OutputError: the spool's folder cannot be written.
        """
        publisher = Publisher.open(config, waits=waits)
        try:
            place = redact_url(config.redis) if config.redis else str(default_folder().resolve())
            name = hashlib.sha256("\n".join((place, config.site, config.prefix)).encode()).hexdigest()[:16]
            folder = config.spool or Path(platformdirs.user_state_path("streamfer")) / "spool"
            spool = Spool(folder.expanduser(), name, config.spool_mb << 20)
        except BaseException:
            publisher.close()
            raise
        if spool.waiting:
            log.warning("publish.resumed", extra={"waiting": spool.waiting, "folder": str(spool.folder)})
        return cls(publisher, spool, config.resend_seconds)

    @property
    def waiting(self) -> int:
        """Records that are not published yet."""
        return self._spool.waiting

    @property
    def spool_bytes(self) -> int:
        """Bytes that wait on disk."""
        return self._spool.bytes_on_disk

    def put(self, record: Record) -> None:
        """Take a record; it is numbered in its source's order."""
        self._spool.put(self._numbering.number(record))

    def close(self, seconds: float = 10.0) -> None:
        """Publish what waits within ``seconds``; what does not get through stays on disk for the next run."""
        self._end = time.monotonic() + seconds
        self._nudge.set()
        self._spool.wake()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.publisher.disconnect()
            self._thread.join(_END_SECONDS)
        left, folder = self._spool.close(), self._spool.folder
        self.publisher.close()
        told = [f"{left} records wait in {folder}, the next run publishes them"] if left else []
        if lost := self._spool.waiting - left:
            told.append(f"{lost} records are lost, for {folder} takes no more")
        if told:
            why = self.trouble or f"Redis at {redact_url(self.publisher.url)} takes too long"
            self.left = "; ".join([why, *told])

    def _work(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._over():
            try:
                self._step()
                pause = _FIRST_PAUSE_SECONDS
            except Exception as error:
                # Whatever it is: what waits is kept and tried again, for ever.
                self._say(error)
                self._spool.settle()
                self._revive()
                self._nudge.wait(pause if self._end is None else min(pause, max(0.0, self._end - time.monotonic())))
                self._nudge.clear()
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _over(self) -> bool:
        return self._end is not None and (time.monotonic() >= self._end or not self._spool.waiting)

    def _step(self) -> None:
        batch = self._spool.next(_BATCH, _LOOK_SECONDS if self._end is None else 0.0)
        self._append([record for _, record in batch])
        if self._said:
            log.warning("publish.back", extra={"waiting": self.waiting})
        self.trouble = self._said = ""
        if not batch:
            return
        now = time.monotonic()
        self._spool.take(batch[-1][0])
        self.published += len(batch)
        self._recent.extend((now, record) for _, record in batch)
        while len(self._recent) > _MOST_RECENT:
            self._recent.popleft()

    def _append(self, records: list[Fields]) -> None:
        """Append, ahead of what is new that which another run of a server may have forgotten."""
        asked: set[int] = set()
        if not records or time.monotonic() >= self._next_look:
            # Servers that get nothing new may have forgotten something, too.
            self._next_look = time.monotonic() + _LOOK_SECONDS
            asked = {self.publisher.keys.partition(record["ce_subject"]) for _, record in self._recent}
        while True:
            if self._forgotten:
                again = [record for _, record in self._recent]
                for start in range(0, len(again), _BATCH):
                    self.publisher.append(again[start : start + _BATCH])
                self._recent = deque((time.monotonic(), record) for record in again)
                self.sent_again += len(again)
                log.info("publish.sent_again", extra={"records": len(again)})
                self._forgotten = False
            try:
                self.publisher.append(records, self._runs, asked)
            except ForgottenError:
                self._forgotten = True
            else:
                break
        # What was acknowledged long before the server was last seen alive is on its disk.
        while self._recent and self._recent[0][0] < self._seen - self._window:
            self._recent.popleft()
        self._seen = time.monotonic()
        if (records or asked) and "" not in self._runs.values() and time.monotonic() >= self._next_room:
            self._next_room = time.monotonic() + _ROOM_SECONDS
            if evicted := self.publisher.evicted():
                self._tell("publish.evicted", evicted)

    def _say(self, error: Exception) -> None:
        if self._end is not None and time.monotonic() >= self._end:
            # The connections were broken from this side.
            return
        self.errors += 1
        # A server that does not say who it is is taken for another after every trouble.
        self._forgotten |= "" in self._runs.values()
        self.trouble = explain(self.publisher.url, error) if isinstance(error, TROUBLE) else redact_text(repr(error))
        if self._tell("publish.waits", self.trouble):
            self._said = self.trouble

    def _tell(self, event: str, reason: str) -> bool:
        """Log what was not told within the last minute."""
        new = reason != self._said and self._told.is_new(reason)
        if new:
            log.warning(event, extra={"reason": reason, "waiting": self.waiting})
        return new

    def _revive(self) -> None:
        try:
            self.publisher.revive()
        except (PublishError, OSError) as error:
            self._tell("publish.not_revived", str(error))
