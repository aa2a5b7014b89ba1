"""What waits to be published: the newest in memory, what Redis keeps waiting on disk, in order, and never too much.

The disk is SQLite in its write-ahead mode with ``synchronous=NORMAL``: what is written outlives the end of this process
however it comes, and a power failure from the log's next checkpoint on (about every thousand pages). Records stay in
memory alone for a second at most while Redis does not take them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

from streamfer.errors import OutputError, RecordError
from streamfer.publish.append import Fields
from streamfer.publish.connection import Told
from streamfer.records import AnyDocument, ClipCaptioned, ClipLabelled, Gap, RawDocument, Record
from streamfer.records.envelope import fields_to_line, line_to_fields

_SUFFIX = ".sqlite"
_MOST_SPOOLS = 64
_MOST_IN_MEMORY = 4096
_MOST_WITHOUT_DISK = 50_000
_MEMORY_SECONDS = 1.0
#: A disk that is full is not asked again at once.
_REST_SECONDS = 5.0
# What is dropped at once: enough to be rare, little enough to be quick.
_DROPPED_ROWS = 512
CAUSE = "spool_full"
_ALL = "SELECT number, body FROM waiting ORDER BY number"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    number: int
    record: Fields
    since: float


class Spool:
    """A bounded queue of records that outlives the process.

    A folder holds one file a process that publishes to the same place; whoever opens the folder takes over what
    processes that have ended left behind for the place of this ``name``. Where more than ``max_bytes`` of JSON wait on
    disk, the oldest makes room and a gap record takes its place.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._memory: deque[_Waiting] = deque()
        self._in_flight = self._taken = 0
        self._on_disk = self.bytes_on_disk = 0  #: records there, and bytes of JSON
        self._disk_rests = 0.0
        self._told = Told()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path, self._database = _claim(folder, name)
            self._adopt(folder, name)
            self._number = self._count()
        except (OSError, sqlite3.Error) as error:
            raise OutputError(
                f"publish.spool: {folder} cannot be written ({getattr(error, 'strerror', None) or error}); "
                "name a folder with room, of your own"
            ) from error

    @property
    def waiting(self) -> int:
        """Records that are not published yet."""
        return len(self._memory) + self._on_disk

    def put(self, record: Fields) -> None:
        """Take a numbered record behind all others; never waits for Redis."""
        with self._changed:
            self._number += 1
            self._memory.append(_Waiting(self._number, record, time.monotonic()))
            late = time.monotonic() - self._memory[0].since > _MEMORY_SECONDS
            if late or len(self._memory) > _MOST_IN_MEMORY:
                self._settle()
            self._changed.notify_all()

    def next(self, most: int, seconds: float) -> list[tuple[int, Fields]]:
        """Return the oldest records with their numbers, waiting ``seconds`` at most for one; they stay until taken."""
        with self._changed:
            if not self.waiting:
                self._changed.wait(seconds)
            found = self._oldest_on_disk(most) if self._on_disk else []
            if not found:
                found = [(held.number, held.record) for held, _ in zip(self._memory, range(most), strict=False)]
            self._in_flight = found[-1][0] if found else 0
            return found

    def take(self, number: int) -> None:
        """Forget the records up to ``number``: they are published."""
        with self._changed:
            self._in_flight = 0
            while self._memory and self._memory[0].number <= number:
                self._memory.popleft()
            if self._on_disk:
                self._pass_over(number)

    def settle(self) -> None:
        """Bring what is in memory to the disk."""
        with self._changed:
            self._settle()

    def wake(self) -> None:
        """End a wait in :meth:`next`."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> int:
        """Bring the rest to the disk; return how many records wait there: what else waits is lost with the process."""
        with self._changed:
            self._disk_rests = 0.0
            self._settle()
            self._database.close()
            return self._on_disk

    def _settle(self) -> None:
        if time.monotonic() < self._disk_rests:
            self._bound_memory()
            return
        try:
            self._insert([(held.number, _sealed(held.record)) for held in self._memory])
            self._memory.clear()
            self._bound_disk()
        except sqlite3.Error as error:
            if self._told.is_new(str(error)):
                log.error("publish.spool_failed", extra={"folder": str(self.folder), "reason": str(error)})  # noqa: TRY400
            self._disk_rests = time.monotonic() + _REST_SECONDS
            self._bound_memory()

    def _bound_disk(self) -> None:
        """Put gaps in the place of the oldest on disk until the rest fits."""
        while self.bytes_on_disk > self._max_bytes:
            before = self.bytes_on_disk
            oldest = self._rows(self._in_flight, _DROPPED_ROWS)
            gaps = [(number, _sealed(gap)) for number, gap in _gaps([*_read(oldest)])]
            if oldest:
                self._delete(oldest[0][0], oldest[-1][0])
                self._insert(gaps)
            # Gaps alone may be what is left of all that was dropped.
            if self.bytes_on_disk >= before:
                return

    def _bound_memory(self) -> None:
        """Drop the oldest in memory, where the disk takes nothing."""
        if len(self._memory) <= _MOST_WITHOUT_DISK:
            return
        flying = [held for held in self._memory if held.number <= self._in_flight]
        rest = list(self._memory)[len(flying) :]
        gaps = _gaps([(held.number, held.record) for held in rest[:_DROPPED_ROWS]])
        kept = [_Waiting(number, gap, time.monotonic()) for number, gap in gaps]
        self._memory = deque([*flying, *kept, *rest[_DROPPED_ROWS:]])

    def _oldest_on_disk(self, most: int) -> list[tuple[int, Fields]]:
        try:
            rows = self._rows(0, most)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            # Damaged since it was opened.
            self._database = _renewed(self._path, self._database, error) or self._database
            self._count()
            rows = self._rows(0, most)
        found = [*_read(rows)]
        if rows and not found:
            self._pass_over(rows[-1][0])
        return found

    def _pass_over(self, number: int) -> None:
        """Forget what is on disk up to ``number``; where the disk is too full to, it is deleted with what follows."""
        count, size = self._size(self._taken + 1, number)
        self._taken = number
        self._on_disk, self.bytes_on_disk = self._on_disk - count, self.bytes_on_disk - size
        try:
            self._database.execute("DELETE FROM waiting WHERE number <= ?", (number,))
        except sqlite3.Error as error:
            log.warning("publish.spool_keeps", extra={"folder": str(self.folder), "reason": str(error)})

    def _insert(self, rows: Sequence[tuple[int, str]]) -> None:
        if not rows:
            return
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO waiting VALUES (?, ?)", rows)
        self._on_disk += len(rows)
        self.bytes_on_disk += sum(len(body) for _, body in rows)

    def _delete(self, first: int, last: int) -> None:
        count, size = self._size(first, last)
        self._database.execute("DELETE FROM waiting WHERE number BETWEEN ? AND ?", (first, last))
        self._on_disk, self.bytes_on_disk = self._on_disk - count, self.bytes_on_disk - size

    def _size(self, first: int, last: int) -> tuple[int, int]:
        query = "SELECT COUNT(*), TOTAL(LENGTH(body)) FROM waiting WHERE number BETWEEN ? AND ?"
        count, size = self._ask(query, (first, last))
        return count, int(size)

    def _count(self) -> int:
        """Count anew what is on disk; return the highest number there."""
        last = int(self._ask("SELECT MAX(number) FROM waiting")[0] or 0)
        self._on_disk, self.bytes_on_disk = self._size(self._taken + 1, last)
        return last

    def _rows(self, after: int, most: int) -> list[tuple[int, str]]:
        query = "SELECT number, body FROM waiting WHERE number > ? ORDER BY number LIMIT ?"
        return self._database.execute(query, (max(after, self._taken), most)).fetchall()

    def _ask(self, query: str, values: tuple[int, ...] = ()) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._database.execute(query, values).fetchone()
        return row

    def _adopt(self, folder: Path, name: str) -> None:
        """Take over what processes that have ended left behind, in front of what is to come."""
        for path in sorted(folder.glob(f"{name}-*{_SUFFIX}")):
            other = _open(path)
            if other is None:
                continue
            bodies = other.execute("SELECT body FROM waiting ORDER BY number").fetchall()
            last = self._count()
            self._insert([(last + place, body) for place, (body,) in enumerate(bodies, 1)])
            other.execute("DELETE FROM waiting")
            other.close()


def _claim(folder: Path, name: str) -> tuple[Path, sqlite3.Connection]:
    """Open the first file of ``name`` that no process holds."""
    for slot in range(_MOST_SPOOLS):
        path = folder / f"{name}-{slot}{_SUFFIX}"
        database = _open(path)
        if database is not None:
            return path, database
    raise OSError(f"{_MOST_SPOOLS} processes use it")


def _open(path: Path) -> sqlite3.Connection | None:
    """Open a file for this process alone; None where another has it."""
    database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    database.text_factory = partial(str, encoding="utf-8", errors="replace")
    try:
        for word in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
            database.execute(f"PRAGMA {word}")
        database.execute("CREATE TABLE IF NOT EXISTS waiting (number INTEGER PRIMARY KEY, body TEXT NOT NULL)")
        database.execute("BEGIN IMMEDIATE")
        database.execute("COMMIT")
        _examine(database)
    except sqlite3.DatabaseError as error:
        damaged = not isinstance(error, sqlite3.OperationalError)
        if damaged or (_says_damage(str(error)) and os.access(path, os.W_OK)):
            return _renewed(path, database, error)
        database.close()
        if "locked" in str(error):
            return None
        raise
    return database


def _examine(database: sqlite3.Connection) -> None:
    database.execute(f"{_ALL} LIMIT 1").fetchall()
    ((health,),) = database.execute("PRAGMA quick_check(1)").fetchall()
    if health != "ok":
        raise sqlite3.DatabaseError(health)


def _says_damage(reason: str) -> bool:
    # Of a damaged header, or names of its table.
    return any(words in reason for words in ("file format", "readonly", "no such column"))


def _renewed(path: Path, database: sqlite3.Connection, reason: Exception) -> sqlite3.Connection | None:
    """Put a damaged file aside, and open another with the rows that can be read from either end of it."""
    rows: dict[int, str] = {}
    for query in (_ALL, f"{_ALL} DESC"):
        with contextlib.suppress(sqlite3.DatabaseError):
            rows.update(database.execute(query))
    database.close()
    told = {"file": str(path), "reason": str(reason), "rescued": len(rows)}
    log.error("publish.spool_damaged", extra=told)
    path.replace(path.with_suffix(".damaged"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fresh = _open(path)
    if fresh is not None:
        fresh.executemany("INSERT INTO waiting VALUES (?, ?)", sorted(rows.items()))
    return fresh


def _read(rows: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Fields]]:
    for number, body in rows:
        try:
            yield number, line_to_fields(_unsealed(body))
        except RecordError as error:
            log.error("publish.spool_damaged", extra={"number": number, "reason": str(error)})  # noqa: TRY400


def _sealed(record: Fields) -> str:
    """Return a record as JSON behind a mark of its bytes: a disk's flipped bit is no label."""
    line = fields_to_line(record)
    return f"{crc32(line.encode()):08x}{line}"


def _unsealed(body: str) -> str:
    mark, line = body[:8], body[8:]
    if mark != f"{crc32(line.encode()):08x}":
        raise RecordError("its bytes were changed on the disk")
    return line


def _gaps(rows: Sequence[tuple[int, Fields]]) -> list[tuple[int, Fields]]:
    """Return one gap for each source of ``rows``, with the number of its last record."""
    by_source: dict[str, list[tuple[int, Record, AnyDocument]]] = {}
    for number, fields in rows:
        try:
            record = Record.from_fields(fields)
        except RecordError as error:
            log.error("publish.spool_damaged", extra={"number": number, "reason": str(error)})  # noqa: TRY400
            continue
        # What a later version left in the spool cannot say where a gap would stand.
        if not isinstance(record.data, RawDocument):
            by_source.setdefault(record.subject, []).append((number, record, record.data))
    gaps: list[tuple[int, Fields]] = []
    for subject, held in by_source.items():
        number, last, data = held[-1]
        clip = data.clip if isinstance(data, ClipLabelled | ClipCaptioned) else data
        earlier = [gap for _, _, gap in held if isinstance(gap, Gap) and gap.cause == CAUSE]
        starts = [record.recordedtime.timestamp() for _, record, _ in held]
        document = Gap(
            cause=CAUSE,
            unit="records",
            count=len(held) - len(earlier) + sum(gap.count for gap in earlier),
            epoch=clip.epoch,
            epoch_key=clip.epoch_key or str(clip.epoch),
            start_time=min([*starts, *(gap.start_time for gap in earlier)]),
            end_time=max(starts),
            time_origin="wallclock",
            reason="Redis was away for longer than the spool could hold",
            producer=data.producer,
        )
        site = last.source.rpartition("/")[2]
        # In its number's place among the clips: subscribers count the others as lost.
        clips = [record.sequence for _, record, known in held if isinstance(known, ClipLabelled | Gap)]
        gap = Record.of(document, source_id=subject, site=site, recordedtime=last.recordedtime)
        gaps.append((number, gap.to_fields(clips[-1] if clips else None)))
    return gaps
