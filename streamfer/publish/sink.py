"""Where records go: the protocol, and a sink that needs no server."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

from streamfer.errors import PublishError
from streamfer.records import Record


class Outcome(StrEnum):
    """What became of a record."""

    NEW = "new"
    DUPLICATE = "duplicate"


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
