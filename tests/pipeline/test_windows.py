"""Windows on the tick grid: which are complete, and how gaps are filled."""

from __future__ import annotations

from dataclasses import replace

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
    assert fill_window(SIXTEEN, 1, range(40), range(40)) == tuple(range(8, 24))


def test_a_hole_repeats_the_last_feature() -> None:
    present = [*range(5), *range(8, 16)]
    ticks = fill_window(SIXTEEN, 0, present, range(16))
    assert ticks == (0, 1, 2, 3, 4, 4, 4, 4, 8, 9, 10, 11, 12, 13, 14, 15)


def test_a_late_face_repeats_its_first_feature_backwards() -> None:
    assert fill_window(SIXTEEN, 0, range(6, 16), range(16)) == (*(6,) * 7, *range(7, 16))


@pytest.mark.parametrize("present", [[], [20, 21]])
def test_a_window_without_the_face_is_none(present: list[int]) -> None:
    assert fill_window(SIXTEEN, 0, present, range(16), lenient=True) is None


@pytest.mark.parametrize("present", [range(3, 16), [*range(6), *range(9, 16)], range(13)])
def test_a_hole_that_is_too_long_is_not_bridged(present: list[int]) -> None:
    assert fill_window(replace(SIXTEEN, max_gap=3), 0, present, range(16))
    assert fill_window(replace(SIXTEEN, max_gap=2), 0, present, range(16)) is None
    assert fill_window(replace(SIXTEEN, max_gap=2), 0, present, range(16), lenient=True)


def test_a_face_that_is_seldom_seen_makes_no_window() -> None:
    assert fill_window(SIXTEEN, 0, [0, 2, 4, 6, 8, 10, 12, 14], range(16))
    assert fill_window(SIXTEEN, 0, [0, 3, 6, 9, 12, 15], range(16)) is None


def test_a_source_slower_than_the_ticks_has_no_gaps() -> None:
    every_third = range(0, 48, 3)
    ticks = fill_window(SIXTEEN, 0, every_third, every_third)
    assert ticks == (0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9, 12, 12, 12, 15)


def test_a_slow_source_whose_face_is_missing_half_the_time_is_sparse() -> None:
    every_third = range(0, 48, 3)
    assert fill_window(SIXTEEN, 0, [0, 9], every_third) is None


def test_a_stall_of_a_quick_source_is_a_gap() -> None:
    analysed = [*range(40, 50), 63]
    assert fill_window(SIXTEEN, 6, [48, 49, 63], analysed) is None
    assert fill_window(replace(SIXTEEN, max_gap=16), 6, [48, 49, 63], analysed)


def test_the_end_of_a_source_is_sampled_like_a_shorter_clip() -> None:
    assert fill_window(SIXTEEN, 1, range(19), range(19), stop=19) == (*range(8, 19), 18, 18, 18, 18, 18)


def test_the_end_of_a_source_needs_half_a_window() -> None:
    assert fill_window(SIXTEEN, 1, range(12), range(12), stop=12) is None
    assert fill_window(SIXTEEN, 1, range(16), range(16), stop=16)


def test_a_stream_cut_off_within_a_group_of_pictures_ends_before_the_hole() -> None:
    four = WindowGrid(length=4, stride=4, frames=16, max_gap=2, min_real=0.5)
    # Killed behind the P frame of tick 9, whose B frames, that of tick 8 among them, had still to come.
    assert fill_window(four, 2, [9], [9], stop=10) is None
    assert fill_window(four, 2, [8, 9], [8, 9], stop=10)
    # Of every other tick that a slower source can have, it has them all.
    assert fill_window(four, 2, [8, 10], [8, 10], stop=11)


def test_leniency_takes_a_single_picture() -> None:
    assert fill_window(SIXTEEN, 0, [0], [0], stop=1, lenient=True) == (0,) * 16


def test_long_windows_take_segment_centres() -> None:
    grid = WindowGrid.of(ClipConfig(seconds=5), SamplingConfig(), 16)
    assert fill_window(grid, 2, range(80), range(80)) == tuple(16 + centre for centre in segment_centres(40, 16))


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
    filled = fill_window(grid, number, present, ticks)
    if filled is not None:
        assert len(filled) == 16
        assert list(filled) == sorted(filled)
        assert set(filled) <= set(present)
        assert all(grid.start(number) <= tick < grid.end(number) for tick in filled)


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
    filled = fill_window(early, number, range(last + 1), range(last + 1))
    assert filled is not None
    assert 0 <= filled[0] <= filled[-1] <= last
