"""A sink that fails by plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamfer.errors import PublishError
from streamfer.publish import MemorySink, Outcome
from streamfer.records import Record


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
