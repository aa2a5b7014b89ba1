"""Times that rise from zero, whatever the stream says."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfer.video.clock import ArrivalClock, PtsClock


def places(pts: list[int | None], duration: int | None = 40) -> list[tuple[int, int, int]]:
    clock = PtsClock(Fraction(1, 1000), 0.04)
    ticks = [clock.tick(value, duration) for value in pts]
    return [(tick.epoch, tick.pts, tick.index) for tick in ticks]


@pytest.mark.parametrize(
    ("pts", "expected"),
    [
        ([7000, 7040, 7080], [(0, 0, 0), (0, 40, 1), (0, 80, 2)]),
        ([None, None, None], [(0, 0, 0), (0, 40, 1), (0, 80, 2)]),
        ([-80, -40, 0], [(0, 0, 0), (0, 40, 1), (0, 80, 2)]),
        ([0, 40, 40, 80], [(0, 0, 0), (0, 40, 1), (0, 41, 2), (0, 80, 3)]),
        ([0, 40, 30, 80], [(0, 0, 0), (0, 40, 1), (0, 41, 2), (0, 80, 3)]),
        ([9000, 9400, 50, 90], [(0, 0, 0), (0, 400, 1), (1, 0, 0), (1, 40, 1)]),
        ([0, 40, 10079], [(0, 0, 0), (0, 40, 1), (0, 10079, 2)]),
        ([0, 40, 10081, 10121], [(0, 0, 0), (0, 40, 1), (1, 0, 0), (1, 40, 1)]),
    ],
    ids=["offset", "missing", "negative", "repeated", "glitch", "restart", "gap", "leap"],
)
def test_places(pts: list[int | None], expected: list[tuple[int, int, int]]) -> None:
    assert places(pts) == expected


def test_elapsed_time_goes_on_over_a_restart() -> None:
    clock = PtsClock(Fraction(1, 1000), 0.04)
    assert [round(clock.tick(value, 40).elapsed, 3) for value in (0, 400, 800, 0, 40)] == [0.0, 0.4, 0.8, 0.84, 0.88]


def test_a_leap_is_told_and_takes_no_time() -> None:
    clock = PtsClock(Fraction(1, 1000), 0.04)
    before, after, back = [clock.tick(pts, 40) for pts in (0, 49 * 86_400_000 + 40, 7)]
    assert (before.reason, before.leap) == ("", 0)
    assert (after.reason, after.leap, after.elapsed) == ("its clock jumps ahead by 4233600.0 s", 49 * 86_400_000, 0.04)
    assert (back.epoch, back.leap, round(back.elapsed, 3)) == (2, 0, 0.08)


def test_slow_video_and_patient_sources_may_pause_longer_than_ten_seconds() -> None:
    slideshow = PtsClock(Fraction(1, 1000), 15.0)
    assert [slideshow.tick(pts, None).epoch for pts in (0, 60_000, 180_000)] == [0, 0, 1]
    patient = PtsClock(Fraction(1, 1000), 0.04, stall=30.0)
    assert [patient.tick(pts, 40).epoch for pts in (0, 30_040, 70_000)] == [0, 0, 1]


@given(st.lists(st.one_of(st.none(), st.integers(-(10**6), 10**6)), min_size=1, max_size=100))
def test_times_rise_within_an_epoch_and_epochs_never_fall(pts: list[int | None]) -> None:
    found = places(list(pts))
    assert found[0] == (0, 0, 0)
    for (epoch, place, index), (next_epoch, next_place, next_index) in itertools.pairwise(found):
        if next_epoch == epoch:
            assert next_place > place
            assert next_index == index + 1
        else:
            assert (next_epoch, next_place, next_index) == (epoch + 1, 0, 0)


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 3)), min_size=1, max_size=100))
def test_arrival_times_never_run_back_and_never_lie_in_the_future(steps: list[tuple[float, float]]) -> None:
    clock = ArrivalClock()
    seconds, arrived, previous = 0.0, 1000.0, 0.0
    for step, held_up in steps:
        seconds += step
        arrived = max(arrived, 1000 + seconds + held_up)
        wall = clock.wall_time(seconds, arrived)
        assert previous - 1e-6 <= wall <= arrived + 1e-6
        previous = wall


def test_a_held_up_frame_gets_the_time_it_should_have_come_at() -> None:
    clock = ArrivalClock()
    assert clock.wall_time(0.0, 100.2) == pytest.approx(100.2)
    assert clock.wall_time(1.0, 102.0) == pytest.approx(101.2)


def test_a_slow_camera_clock_does_not_drag_the_estimate_along() -> None:
    clock = ArrivalClock()
    for second in range(600):
        wall = clock.wall_time(float(second), 100.0 + second * 1.001)
    assert wall == pytest.approx(100 + 599 * 1.001, abs=0.061)
