"""What a live source lost, told from good frame to good frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from fakes.faces import FakeDetector
from fakes.models import FakeExpressionModel
from fakes.video import FakeSource
from numpy.typing import NDArray
from scenes import CONFIG, facts_at, one_face

from streamfer.config import configure
from streamfer.faces import FaceTracker
from streamfer.faces.detections import Detections
from streamfer.pipeline.analysis import AnalysisPlan, DetectorPool, SourceAnalysis
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.items import AnalysedFrame, EpochOpened, Item
from streamfer.pipeline.ledger import Ledger, Naps
from streamfer.pipeline.selection import TimeSelector
from streamfer.video.frames import Frame, FrameFilter, StateChange, VideoInfo

CROP = FakeExpressionModel().info.crop

INFO = VideoInfo("hall", "hall", 240, 160, "h264", 25.0, None, 0, live=True, epoch_key="1")
OPENED = EpochOpened("hall", 0, INFO, Fraction(1, 90_000), "wallclock")


def awake(_start: float, _end: float) -> bool:
    """This process ran all the time."""
    return False


def told(ledger: Ledger, wall_time: float, **dropped: int) -> list[tuple[str, int, float, float]]:
    facts = replace(facts_at(0), wall_time=wall_time, dropped=dropped)
    return [(loss.cause, loss.count, loss.start, loss.end) for loss in ledger.good(OPENED, facts, awake)]


def test_a_pause_longer_than_a_window_is_told_with_its_true_times() -> None:
    ledger = Ledger(2.0, 16)
    assert told(ledger, 100.0) == told(ledger, 101.9) == []
    assert told(ledger, 118.7) == [("no_pictures", 0, 101.9, 118.7)]
    assert told(ledger, 118.8) == []


def test_a_pause_with_drops_names_what_dropped_them() -> None:
    ledger = Ledger(2.0, 16)
    told(ledger, 100.0, queue_full=3)
    assert told(ledger, 105.0, queue_full=3, too_old=7) == [("too_old", 7, 100.0, 105.0)]


def test_drops_are_told_every_ten_seconds_while_they_last() -> None:
    ledger, found = Ledger(2.0, 16), []
    for number in range(250):
        found += told(ledger, 100.0 + number / 8, too_old=2 * number)
    assert [(cause, count) for cause, count, _, _ in found] == [("too_old", 160)] * 3
    assert [start for _, _, start, _ in found] == [100.0, 110.0, 120.0]


def test_a_few_drops_stand_in_the_clips_alone() -> None:
    ledger = Ledger(2.0, 16)
    assert [told(ledger, 100.0 + number / 8, queue_full=number // 20) for number in range(250)] == [[]] * 250


def test_times_without_a_calendar_are_no_gaps() -> None:
    opened = replace(OPENED, time_origin="file")
    ledger = Ledger(2.0, 16)
    assert [ledger.good(opened, replace(facts_at(0), wall_time=when), awake) for when in (0.0, 99.0)] == [[], []]


def test_what_was_slept_through_is_called_so_whatever_was_dropped() -> None:
    ledger = Ledger(2.0, 16)
    told(ledger, 100.0)
    facts = replace(facts_at(0), wall_time=120.0, dropped={"too_old": 7, "packet_loss": 20})
    losses = ledger.good(OPENED, facts, lambda start, end: (start, end) == (100.0, 120.0))
    assert [(loss.cause, loss.count, loss.start, loss.end) for loss in losses] == [("suspended", 27, 100.0, 120.0)]


def test_naps_are_pauses_in_which_nothing_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause in which this process worked, as on a busy machine, or a clock that was set, is none."""
    times = {"boot": 50.0, "work": 1.0, "wall": 1000.0}
    monkeypatch.setattr("streamfer.video.clock.steady_now", lambda: times["boot"])
    monkeypatch.setattr(time, "process_time", lambda: times["work"])
    monkeypatch.setattr(time, "time", lambda: times["wall"])
    stop = threading.Event()
    stop.set()
    naps = Naps(stop)

    def pass_by(seconds: float, work: float, wall: float) -> None:
        times["boot"], times["work"], times["wall"] = (
            times["boot"] + seconds,
            times["work"] + work,
            times["wall"] + wall,
        )

    pass_by(20, 5, 20)
    assert not naps.through(1000, 1020), "it was busy"
    pass_by(0.1, 0, 3600)
    assert not naps.through(1020, 4620), "the clock was set"
    pass_by(20, 0.01, 20)
    assert naps.through(4610, 4640.1)
    assert not naps.through(4600, 4700), "less than half of it"


def test_an_outage_begins_at_the_last_good_frame_and_grows() -> None:
    ledger = Ledger(2.0, 16)
    now = time.time()
    told(ledger, now)
    ledger.gone(now + 6)
    due = [ledger.missing_since(now + later) for later in (7, 9.5, 10.1, 15, 20.2)]
    assert due == [None, None, now, None, now]
    assert ledger.back() == now
    assert told(ledger, now + 40) == [], "told already"


def test_silence_that_nobody_explains_grows_too() -> None:
    ledger = Ledger(2.0, 16)
    now = time.time()
    told(ledger, now)
    assert [ledger.missing_since(now + later) for later in (9, 10.5, 12, 21)] == [None, now, None, now]
    assert told(ledger, now + 22) == [("no_pictures", 0, now, now + 22)], "from the last good frame to the next"


def test_an_outage_before_the_first_frame_is_none() -> None:
    assert Ledger(2.0, 16).missing_since(time.time()) is None


class Slow(FakeDetector):
    """A detector that keeps the analysis busy."""

    def detect(self, images: Sequence[NDArray[np.uint8]], *, still: bool = False) -> list[Detections]:
        time.sleep(0.1)
        return super().detect(images, still=still)


class Paced(FakeSource):
    """A source that sends a picture in ten milliseconds."""

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        for item in super().stream(wanted):
            time.sleep(0.01 if isinstance(item, Frame) else 0)
            yield item


def test_under_overload_frames_stay_fresh_and_drops_are_counted() -> None:
    """Ten times the load that the detector can hold; a busy machine adds its own, so the best of a few tries tells."""
    waits: list[float] = []
    while len(waits) < 4 and min(waits, default=9.0) >= 0.6:
        waits.append(longest_wait(0.3))
    assert min(waits) < 0.6, "the budget, and what a busy machine adds"


def longest_wait(staleness: float) -> float:
    """Seconds that nine of ten frames waited for their analysis at most."""
    config = configure(CONFIG, live__staleness=staleness, live__queue_frames=200, fps=25)
    plan = AnalysisPlan(config, CROP, lambda _source: TimeSelector(25), lambda info: FaceTracker(25, still=info.still))
    source = Paced(one_face, count=300, fps=25, live=True)
    frames: list[tuple[float, AnalysedFrame]] = []

    def take(item: Item) -> None:
        if isinstance(item, AnalysedFrame):
            frames.append((time.perf_counter() - item.facts.arrived - item.facts.detect_s, item))

    SourceAnalysis(source, plan, DetectorPool([Slow()]), take, threading.Event(), StageClock()).run()
    waits = [wait for wait, _ in frames]
    assert 5 < len(frames) < 150
    dropped = frames[-1][1].facts.dropped
    assert dropped["too_old"] > len(frames)
    assert len(frames) + sum(dropped.values()) <= 300
    return sorted(waits)[len(waits) * 9 // 10]
