"""Bad networks between a real camera and streamfer, as a subscriber sees them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from bad_network import BadNetwork

import streamfer
from streamfer.pipeline import ledger
from streamfer.records import ClipLabelled, Gap, Record, SourceStateChanged

PATIENCE_SECONDS = 120.0
#: What goes on is told so often here, not every ten seconds.
TOLD_SECONDS = 5.0


@pytest.fixture(autouse=True)
def _told_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger._TELL_SECONDS == 10
    monkeypatch.setattr(ledger, "_TELL_SECONDS", TOLD_SECONDS)


@pytest.fixture(scope="module")
def session(tiny_model: Path) -> Iterator[streamfer.Session]:
    """Gives a camera up after three seconds without a picture."""
    waits = {"stall_timeout": 3, "backoff_first": 0.2, "backoff_cap": 0.5}
    with streamfer.Session(model=str(tiny_model), detector="lbp", fps=4, clip__seconds=1, live=waits) as session:
        yield session


def until(records: Iterator[Record], wanted: Callable[[list[Record]], bool]) -> list[Record]:
    """Take records until they are as wanted."""
    taken: list[Record] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not wanted(taken):
        assert time.monotonic() < deadline, [str(record.data)[:200] for record in taken[-5:]]
        taken.append(next(records))
    return taken


def clips(records: list[Record]) -> list[ClipLabelled]:
    return [record.data for record in records if isinstance(record.data, ClipLabelled)]


def gaps(records: list[Record]) -> list[Gap]:
    return [record.data for record in records if isinstance(record.data, Gap)]


def states(records: list[Record]) -> list[str]:
    return [record.data.state for record in records if isinstance(record.data, SourceStateChanged)]


@pytest.mark.parametrize(("fault", "cause"), [("loss", "packet_loss"), ("damage", "decode_error")])
def test_what_is_lost_on_the_way_is_counted_by_cause(
    rtsp_server: Callable[..., Any], session: streamfer.Session, fault: str, cause: str
) -> None:
    """UDP that loses packets, and packets that come damaged: gaps have their number, and no epoch opens for it."""
    server = rtsp_server("--width", "320", "--height", "240")
    with BadNetwork(int(server.port)) as network, udp(session), closing(session.stream(network.url())) as camera:
        found = until(camera, lambda taken: "online" in states(taken))
        setattr(network, fault, 0.2)
        found += until(camera, lambda taken: any(gap.cause == cause for gap in gaps(taken)))
    told = next(gap for gap in gaps(found) if gap.cause == cause)
    assert told.count > 0
    assert 0 < told.end_time - told.start_time < 60
    assert {gap.epoch for gap in gaps(found)} == {0}
    assert states(found) == ["connecting", "online"]


@contextmanager
def udp(session: streamfer.Session) -> Iterator[None]:
    before = session.config
    # A busy machine is not to look like a camera that says nothing.
    live = before.live.model_copy(update={"transport": "udp", "stall_timeout": 60.0})
    session.config = before.model_copy(update={"live": live})
    yield
    session.config = before


def test_a_link_that_becomes_slow_is_told_and_its_backlog_is_given_up(
    rtsp_server: Callable[..., Any], long_face_film: Path, session: streamfer.Session
) -> None:
    """4 kB/s for a stream of ten times that: lag and state say it, the gap has its times, and then labels are fresh."""
    server = rtsp_server("--width", "320", "--height", "240")
    with BadNetwork(int(server.port)) as network, closing(session.stream(network.url())) as camera:
        found = until(camera, lambda taken: "online" in states(taken))
        time.sleep(2)
        network.rate = 4000
        found += until(camera, lambda taken: "stalled" in states(taken) and bool(gaps(taken)))
        network.rate = None
        found += until(camera, lambda taken: "online" in states(taken))
        back = time.time()
    stalled = next(r.data for r in found if isinstance(r.data, SourceStateChanged) and r.data.state == "stalled")
    assert any(words in stalled.reason for words in ("slower than the stream", "no picture for"))
    longest = max(gaps(found), key=lambda gap: gap.end_time - gap.start_time)
    assert longest.end_time - longest.start_time > 3
    assert back - longest.end_time < 30


def test_a_gap_grows_on_a_timer_while_one_attempt_hangs(
    rtsp_server: Callable[..., Any], session: streamfer.Session
) -> None:
    """A camera that freezes, and whose reopening takes long: told again and again, though nothing comes."""
    server = rtsp_server()
    with closing(session.stream(server.url())) as camera:
        found = until(camera, lambda taken: "online" in states(taken))
        time.sleep(1)
        server.freeze()
        found += until(camera, lambda taken: sum(gap.cause == "reconnect" for gap in gaps(taken)) >= 2)
        server.thaw()
        found += until(camera, lambda taken: "online" in states(taken))
    grown = [gap for gap in gaps(found) if gap.cause == "reconnect"]
    assert len({gap.start_time for gap in grown}) == 1, "one outage, told from its beginning"
    lengths = [gap.end_time - gap.start_time for gap in grown]
    assert lengths == sorted(lengths)
    assert lengths[0] >= 3
    assert TOLD_SECONDS / 2 < lengths[1] - lengths[0] < 30, "and what a busy machine adds"
