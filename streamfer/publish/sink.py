"""Where records go: the protocol, and two sinks that need no server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

from streamfer.errors import PublishError
from streamfer.records import Record


class Outcome(StrEnum):
    """What became of a record."""

    NEW = "new"
    DUPLICATE = "duplicate"
    SPOOLED = "spooled"


@runtime_checkable
class Sink(Protocol):
    """A place that takes records."""

    def publish_many(self, records: Sequence[Record]) -> list[Outcome]:
        """Take ``records`` in order and say what became of each.

        Raises:
            PublishError: not all could be taken; taking the same records again repeats none of them.
        """

    def close(self) -> None:
        """Finish; a sink takes nothing afterwards."""


class MemorySink:
    """A sink that keeps its records, each id once, like the real one.

    Attributes:
        records: what was new, in order.
        closed: whether :meth:`close` was called.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = False
        self._seen: set[str] = set()

    def publish_many(self, records: Sequence[Record]) -> list[Outcome]:
        """Keep what is new.

        Raises:
            PublishError: the sink is closed.
        """
        if self.closed:
            raise PublishError("the memory sink is closed: open a new one")
        outcomes = []
        for record in records:
            if record.id in self._seen:
                outcomes.append(Outcome.DUPLICATE)
                continue
            self._seen.add(record.id)
            self.records.append(record)
            outcomes.append(Outcome.NEW)
        return outcomes

    def close(self) -> None:
        """Refuse records from now on; those kept stay readable."""
        self.closed = True


class FakeSink(MemorySink):
    """A :class:`MemorySink` that fails when told to, for tests of what stands before a sink.

    Args:
        faults: one item for each call of :meth:`publish_many`; a string fails that call with this message,
            None lets it pass. Calls after the last item pass.
        taken_before_fault: how many records of a failing call are kept first, as when the connection breaks
            in the middle.
    """

    def __init__(self, faults: Iterable[str | None] = (), *, taken_before_fault: int = 0) -> None:
        super().__init__()
        self._faults = iter(faults)
        self._taken = taken_before_fault
        self.calls = 0

    def publish_many(self, records: Sequence[Record]) -> list[Outcome]:
        """Keep ``records``, or fail as planned.

        Raises:
            PublishError: a fault was planned for this call, or the sink is closed.
        """
        self.calls += 1
        fault = next(self._faults, None)
        if fault is not None:
            super().publish_many(records[: self._taken])
            raise PublishError(fault)
        return super().publish_many(records)
