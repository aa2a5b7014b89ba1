"""The numbers of each source's records: those of one run follow one another without a hole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from streamfer.publish.reading import Lost
from streamfer.records import Gap, Record

_SOURCES_REMEMBERED = 4096


class Order:
    """What was read of each source, and so what is missing."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()

    def know(self, stream: str, subject: str, run: str, number: int) -> None:
        """Take note of the last number that was read of a source."""
        self._last[stream, subject] = (run, number)
        self._last.move_to_end((stream, subject))
        if len(self._last) > _SOURCES_REMEMBERED:
            self._last.popitem(last=False)

    def missing(self, stream: str, record: Record) -> int:
        """Return how many records are missing before this one; less than 0 where it came before."""
        if record.sequence is None:
            return 0
        known, number = self._last.get((stream, record.subject), ("", 0))
        if known == record.run_id and record.sequence <= number:
            return -1
        self.know(stream, record.subject, record.run_id, record.sequence)
        if isinstance(record.data, Gap) and record.data.unit == "records":
            # It says itself what is missing before it.
            return 0
        return record.sequence - number - 1 if known == record.run_id else 0

    def losses(self, stream: str, records: Iterable[Record]) -> list[Lost]:
        """Return what is missing before each of ``records``."""
        counted = [(record, self.missing(stream, record)) for record in records]
        return [lost_before(stream, record, count) for record, count in counted if count > 0]


def lost_before(stream: str, record: Record, count: int) -> Lost:
    """Return that so many are missing before ``record``."""
    return Lost(stream, record.subject, count, "trimmed before they were read, or lost")
