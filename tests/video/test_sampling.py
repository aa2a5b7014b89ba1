"""Sampling: by time, and DFER-CLIP's segments with their edge cases."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfer.errors import ConfigError
from streamfer.video import TimeSampler, segment_centres, segment_random


def chosen(times: list[float], fps: float) -> list[int]:
    sampler = TimeSampler(fps)
    return [index for index, seconds in enumerate(times) if sampler.tick(seconds) is not None]


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25), Fraction(60)])
def test_sampling_at_the_video_s_own_rate_takes_every_frame(rate: Fraction) -> None:
    times = [float(index / rate) for index in range(5000)]
    assert len(chosen(times, float(rate))) == 5000


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30000, 1001), Fraction(25), Fraction(24000, 1001)])
def test_times_rounded_to_milliseconds_lose_no_frame(rate: Fraction) -> None:
    times = [round(float(index / rate), 3) for index in range(5000)]
    assert len(chosen(times, float(rate))) == 5000


def test_the_first_frame_at_or_after_each_tick() -> None:
    times = [0.0, 0.1, 0.124, 0.126, 0.24, 0.25, 0.26, 0.51]
    assert [times[index] for index in chosen(times, 8)] == [0.0, 0.126, 0.25, 0.51]


def test_ticks_are_numbered_by_time_so_that_a_gap_leaves_numbers_out() -> None:
    sampler = TimeSampler(10)
    assert [sampler.tick(seconds) for seconds in (0.0, 0.1, 1.05, 1.1, 1.15)] == [0, 1, 10, 11, None]


rising = st.lists(st.floats(0.0005, 0.4), min_size=1, max_size=200).map(
    lambda steps: [0.0] + [sum(steps[: index + 1]) for index in range(len(steps))]
)


@given(times=rising, fps=st.floats(0.5, 60))
def test_variable_rate_one_frame_a_tick_and_no_reachable_tick_left_out(times: list[float], fps: float) -> None:
    sampler = TimeSampler(fps)
    ticks = [sampler.tick(seconds) for seconds in times]
    taken = [tick for tick in ticks if tick is not None]
    assert taken == sorted(set(taken))
    early = min(0.0006, 0.1 / fps) + 1e-9
    for (tick, seconds), before in zip(list(zip(ticks, times, strict=True))[1:], times, strict=False):
        reached_since = any(before < k / fps <= seconds for k in range(int(before * fps), int(seconds * fps) + 2))
        if tick is not None:
            assert before < tick / fps <= seconds + early
        elif reached_since:
            # Only a frame that was early by less than the container's rounding can have served that tick.
            assert any(abs(k / fps - before) <= early for k in range(int(before * fps), int(before * fps) + 2))


@given(times=rising, fps=st.floats(0.5, 60), data=st.data())
def test_joining_late_chooses_the_same_frames(times: list[float], fps: float, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(times) - 1))
    late = [start + index for index in chosen(times[start:], fps)]
    assert [index for index in late if index > start] == [index for index in chosen(times, fps) if index > start]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_must_be_a_positive_number(fps: float) -> None:
    with pytest.raises(ConfigError, match="sampling rate"):
        TimeSampler(fps)


def test_segment_centres_of_the_published_method() -> None:
    # floor(tick / 2 + tick * i), tick = N / 16; worked by hand.
    assert segment_centres(32) == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31]
    assert segment_centres(17) == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16]
    assert segment_centres(847)[:3] == [26, 79, 132]


@pytest.mark.parametrize("frames", [1, 2, 15])
def test_short_clips_repeat_their_last_frame(frames: int) -> None:
    padded = [*range(frames), *[frames - 1] * (16 - frames)]
    assert segment_centres(frames) == padded
    assert segment_random(frames, random.Random(0)) == padded


def test_sixteen_frames_are_taken_as_they_are() -> None:
    assert segment_centres(16) == list(range(16))
    assert segment_random(16, random.Random(0)) == list(range(16))


@pytest.mark.parametrize("frames", [0, -3])
def test_no_frame_is_an_error(frames: int) -> None:
    with pytest.raises(ConfigError, match="at least one frame"):
        segment_centres(frames)
    with pytest.raises(ConfigError, match="at least one frame"):
        segment_random(frames, random.Random(0))


@given(frames=st.integers(1, 20_000), segments=st.integers(1, 64))
def test_centres_lie_inside_their_segments(frames: int, segments: int) -> None:
    centres = segment_centres(frames, segments)
    assert len(centres) == segments
    assert all(0 <= index < frames for index in centres)
    assert centres == sorted(centres)
    if frames > segments:
        exact = [int(Fraction(frames, segments) * (2 * i + 1) / 2) for i in range(segments)]
        assert all(abs(index - want) <= 1 for index, want in zip(centres, exact, strict=True))
        assert len(set(centres)) == segments


@given(frames=st.integers(16, 2_000), seed=st.integers(0, 1000))
def test_random_choice_stays_in_its_segment_and_never_sees_the_tail(frames: int, seed: int) -> None:
    length = frames // 16
    picks = segment_random(frames, random.Random(seed))
    assert [pick // length for pick in picks] == list(range(16))
