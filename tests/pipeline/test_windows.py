"""Windows on the tick grid: which are complete, and how gaps are filled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfer.config import ClipConfig, SamplingConfig
from streamfer.pipeline.windows import WindowGrid, fill_window
from streamfer.video.sampling import segment_centres

SIXTEEN = WindowGrid.of(ClipConfig(), SamplingConfig(), 16)


def test_default_grid_has_sixteen_ticks_and_a_stride_of_eight() -> None:
    assert (SIXTEEN.length, SIXTEEN.stride, SIXTEEN.max_gap) == (16, 8, 8)


@pytest.mark.parametrize(("tick", "complete"), [(0, 0), (14, 0), (15, 1), (22, 1), (23, 2), (31, 3)])
def test_a_window_is_complete_with_its_last_tick(tick: int, complete: int) -> None:
    assert SIXTEEN.complete_through(tick) == complete


def test_a_whole_clip_is_one_window() -> None:
    grid = WindowGrid.of(ClipConfig(mode="whole"), SamplingConfig(), 16)
    assert [grid.complete_through(tick) for tick in (0, 14, 15, 400)] == [0, 0, 1, 1]


def test_a_full_window_takes_every_tick_once() -> None:
    filling = fill_window(SIXTEEN, 1, range(40), range(40))
    assert filling.ticks == tuple(range(8, 24))
    assert filling.real == 16


def test_a_hole_repeats_the_last_feature() -> None:
    present = [*range(5), *range(8, 16)]
    filling = fill_window(SIXTEEN, 0, present, range(16))
    assert filling.ticks == (0, 1, 2, 3, 4, 4, 4, 4, 8, 9, 10, 11, 12, 13, 14, 15)
    assert filling.real == 13


def test_a_late_face_repeats_its_first_feature_backwards() -> None:
    filling = fill_window(SIXTEEN, 0, range(6, 16), range(16))
    assert filling.ticks[:7] == (6,) * 7
    assert filling.real == 10


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        ([], "absent"),
        ([20, 21], "absent"),
        (range(9, 16), "gap"),
        ([*range(3), *range(12, 16)], "gap"),
        ([0, 3, 6, 9, 12, 15], "sparse"),
    ],
)
def test_what_is_not_a_clip_is_refused_with_the_reason(present: list[int], reason: str) -> None:
    assert fill_window(SIXTEEN, 0, present, range(16)).reason == reason


def test_a_source_slower_than_the_ticks_has_no_gaps() -> None:
    every_third = range(0, 48, 3)
    filling = fill_window(SIXTEEN, 0, every_third, every_third)
    assert filling.reason == "ok"
    assert filling.real == 6
    assert filling.ticks == (0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9, 12, 12, 12, 15)


def test_a_slow_source_whose_face_is_missing_half_the_time_is_sparse() -> None:
    every_third = range(0, 48, 3)
    assert fill_window(SIXTEEN, 0, [0, 9], every_third).reason == "sparse"


def test_a_stall_of_a_quick_source_is_a_gap() -> None:
    analysed = [*range(40, 50), 63]
    assert fill_window(SIXTEEN, 6, [48, 49, 63], analysed).reason == "gap"


def test_the_end_of_a_source_is_sampled_like_a_shorter_clip() -> None:
    filling = fill_window(SIXTEEN, 1, range(19), range(19), stop=19)
    assert filling.ticks == (*range(8, 19), 18, 18, 18, 18, 18)
    assert filling.real == 11


def test_the_end_of_a_source_needs_half_a_window() -> None:
    assert fill_window(SIXTEEN, 1, range(12), range(12), stop=12).reason == "sparse"


def test_leniency_takes_a_single_picture() -> None:
    filling = fill_window(SIXTEEN, 0, [0], [0], stop=1, lenient=True)
    assert filling.ticks == (0,) * 16
    assert filling.real == 1


def test_long_windows_take_segment_centres() -> None:
    grid = WindowGrid.of(ClipConfig(seconds=5), SamplingConfig(), 16)
    filling = fill_window(grid, 2, range(80), range(80))
    assert filling.ticks == tuple(16 + centre for centre in segment_centres(40, 16))
    assert filling.real == 16


@given(
    fps=st.sampled_from([1, 5, 8, 12.5, 25, 30]),
    seconds=st.floats(0.5, 10),
    number=st.integers(0, 5),
    data=st.data(),
)
def test_slots_hold_ticks_of_the_track_inside_the_window_in_order(
    fps: float, seconds: float, number: int, data: st.DataObject
) -> None:
    grid = WindowGrid.of(ClipConfig(seconds=seconds, stride=min(1, seconds)), SamplingConfig(fps=fps), 16)
    ticks = range(grid.end(number) + 5)
    present = data.draw(st.lists(st.sampled_from(ticks), unique=True).map(sorted))
    filling = fill_window(grid, number, present, ticks)
    if filling.reason == "ok":
        assert len(filling.ticks) == 16
        assert list(filling.ticks) == sorted(filling.ticks)
        assert set(filling.ticks) <= set(present)
        assert all(grid.start(number) <= tick < grid.end(number) for tick in filling.ticks)
        assert filling.real == len(set(filling.ticks))
    else:
        assert filling.ticks == ()


@given(stride=st.integers(1, 20), length=st.integers(1, 40), tick=st.integers(0, 500))
def test_complete_windows_are_those_that_end_by_the_tick(stride: int, length: int, tick: int) -> None:
    grid = WindowGrid(length=length, stride=stride, frames=16, max_gap=8, min_real=0.5)
    complete = grid.complete_through(tick)
    assert complete == 0 or grid.end(complete - 1) <= tick + 1
    assert grid.end(complete) > tick + 1


@given(
    length=st.integers(1, 40),
    stride=st.integers(0, 40),
    needed=st.floats(0.01, 1),
    number=st.integers(0, 60),
)
def test_early_windows_hold_what_a_window_needs_and_lead_to_the_usual_ones(
    length: int, stride: int, needed: float, number: int
) -> None:
    usual = WindowGrid(length=length, stride=stride, frames=16, max_gap=8, min_real=needed)
    early = usual.early()
    assert early.end(0) >= needed * length - 1e-9
    if stride:
        before = early.lead // stride
        assert early.end(0) - stride < needed * length + 1e-9
        assert (early.start(number + before), early.end(number + before)) == (usual.start(number), usual.end(number))
        assert early.begun_by(early.start(number)) == number + 1
    last = early.end(number) - 1
    assert early.complete_through(last) == (number + 1 if stride else 1)
    filling = fill_window(early, number, range(last + 1), range(last + 1))
    assert filling.reason == "ok"
    assert 0 <= filling.ticks[0] <= filling.ticks[-1] <= last
