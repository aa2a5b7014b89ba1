"""What was read of each source, and so what is missing: the records of one run are numbered without a hole."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from streamfer.records import Gap, Record

_SOURCES_REMEMBERED = 4096
#: What a publisher needs to find a server that came back, and to send again what that forgot.
_SETTLE_SECONDS = 10.0

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that a source published and a subscriber will not see."""

    stream: str  #: and subject: where they were; the subject is empty where nobody knows whose they were
    subject: str
    count: int  #: how many; 0 where nobody can count
    why: str  #: one line


@dataclass(slots=True)
class _Last:
    """The last record that was read of a source."""

    run: str
    number: int
    place: Place  #: of its entry
    era: int


class Order:
    """The last number that was read of each source in each stream, and how sure it is that all before were there.

    An *era* of a stream ends where its server may have lost some of it. What a source lost by that shows when it is
    heard again: by the hole in its numbers, or, where what was read is appended once more, by none, since whoever sends
    again sends all that followed.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], _Last] = OrderedDict()
        # By stream: how many eras have ended, and why the last one did; then until when which sources must be heard.
        self.eras: dict[str, tuple[int, str]] = {}
        self._doubts: dict[str, tuple[float, set[str]]] = {}

    def places(self, stream: str) -> list[Place]:
        """Where the last records of all sources in a stream stand, the newest first."""
        return sorted((known.place for (of, _), known in self._last.items() if of == stream), reverse=True)

    def end_era(self, stream: str, why: str) -> None:
        """The server may have lost some of a stream."""
        self.eras[stream] = (self._era(stream) + 1, why)

    def doubt(self, stream: str, first: Place, last: Place) -> list[Lost]:
        """The server did lose some, of which it now has what lies between two places; return what is lost for sure."""
        mine = {subject: known.place for (of, subject), known in self._last.items() if of == stream}
        gone = {subject for subject, place in mine.items() if not first <= place <= last} or set(mine)
        if not gone:
            return [Lost(stream, "", 0, self.eras[stream][1])]
        before = self._doubts.get(stream, (0.0, set[str]()))[1]
        self._doubts[stream] = (time.monotonic() + _SETTLE_SECONDS, gone | before)
        return []

    def settle(self, *, now: bool = False) -> list[Lost]:
        """Return where a source was not heard again for so long that it may have lost something; or, ``now``, yet."""
        over = [stream for stream, (until, _) in self._doubts.items() if now or time.monotonic() >= until]
        unheard = {stream: self._doubts.pop(stream)[1] for stream in over}
        return [Lost(stream, "", 0, self.eras[stream][1]) for stream, subjects in unheard.items() if subjects]

    def expected(self, stream: str, record: Record) -> tuple[int | None, Place, str]:
        """Return which number a source's next record has, where its last one stands, and why one between may be lost.

        The number is None for a source or a run that was not read; the reason is empty where no era has ended since.
        """
        known = self._last.get((stream, record.subject))
        if known is None or known.run != record.run_id:
            return None, (0, 0), ""
        return known.number + 1, known.place, self.eras[stream][1] if known.era < self._era(stream) else ""

    def know(self, stream: str, subject: str, run: str, number: int, place: Place) -> None:
        """Take note that all of a source was read up to a number, by somebody."""
        known = self._last.get((stream, subject))
        if known is None:
            self._note(stream, subject, run, number, place)
        elif number > known.number:
            known.run, known.number = run, number

    def missing(self, stream: str, record: Record, place: Place) -> int:
        """Take note of a record, and return how many are missing before it; less than 0 where it was read before."""
        if record.sequence is None:
            return 0
        wanted, before, _ = self.expected(stream, record)
        old = wanted is not None and record.sequence < wanted
        if wanted is not None and (not old or place > before) and stream in self._doubts:
            self._doubts[stream][1].discard(record.subject)
        if old:
            return -1
        self._note(stream, record.subject, record.run_id, record.sequence, place)
        if isinstance(record.data, Gap) and record.data.unit == "records":
            # It says itself what is missing before it.
            return 0
        return 0 if wanted is None else record.sequence - wanted

    def _note(self, stream: str, subject: str, run: str, number: int, place: Place) -> None:
        self._last[stream, subject] = _Last(run, number, place, self._era(stream))
        self._last.move_to_end((stream, subject))
        if len(self._last) > _SOURCES_REMEMBERED:
            self._last.popitem(last=False)

    def _era(self, stream: str) -> int:
        return self.eras.get(stream, (0, ""))[0]
