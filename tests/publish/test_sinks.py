"""Sinks that need no server."""

from __future__ import annotations

import pytest
from fakes.sinks import FakeSink
from record_examples import examples

from streamfer.errors import PublishError
from streamfer.publish import MemorySink, Outcome, Publisher, Sink

RECORDS = list(examples().values())


def test_every_sink_obeys_the_protocol() -> None:
    assert isinstance(MemorySink(), Sink)
    assert isinstance(FakeSink(), Sink)
    assert issubclass(Publisher, Sink)


def test_memory_keeps_each_id_once() -> None:
    sink = MemorySink()
    assert sink.publish_many([RECORDS[0], RECORDS[1], RECORDS[0]]) == [
        Outcome.NEW,
        Outcome.NEW,
        Outcome.DUPLICATE,
    ]
    assert sink.records == RECORDS[:2]
    sink.close()
    assert sink.closed
    with pytest.raises(PublishError, match="closed"):
        sink.publish_many(RECORDS)


def test_fake_breaks_in_the_middle_as_planned() -> None:
    sink = FakeSink(["connection lost", None], taken_before_fault=1)
    with pytest.raises(PublishError, match="connection lost"):
        sink.publish_many(RECORDS)
    assert sink.publish_many(RECORDS) == [Outcome.DUPLICATE] + [Outcome.NEW] * (len(RECORDS) - 1)
    assert sink.records == RECORDS
    assert sink.calls == 2
