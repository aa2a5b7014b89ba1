"""The feature ring: order, late arrivals, forgetting."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import face_at, facts_at

from streamfer.pipeline.ring import FeatureRing, Sighting


def sighting(tick: int) -> Sighting:
    return Sighting(tick, facts_at(tick), face_at(1))


def filled(ticks: list[int]) -> FeatureRing:
    ring = FeatureRing()
    for tick in ticks:
        ring.add(sighting(tick), torch.tensor([float(tick)]))
    return ring


@given(st.lists(st.integers(0, 60)), st.integers(0, 60))
def test_ticks_stay_in_order_whatever_the_order_of_arrival(ticks: list[int], old: int) -> None:
    ring = filled(ticks)
    assert ring.ticks == sorted(set(ticks))
    ring.forget_before(old)
    assert ring.ticks == sorted({tick for tick in ticks if tick >= old})
    assert [seen.tick for seen in ring] == ring.ticks
    if ring.ticks:
        assert ring.gather(ring.ticks).flatten().tolist() == [float(tick) for tick in ring.ticks]


def test_gathering_repeats_what_is_asked_for_twice() -> None:
    assert filled([3, 4, 8]).gather([3, 3, 8, 4]).flatten().tolist() == [3, 3, 8, 4]


def test_the_first_feature_of_a_tick_stays() -> None:
    ring = filled([5])
    assert not ring.add(sighting(5), torch.tensor([99.0]))
    assert ring.gather([5]).item() == 5


def test_what_another_track_has_seen_is_taken_over_in_order() -> None:
    ring = filled([2, 5])
    other = FeatureRing()
    for tick in (1, 2, 3):
        other.add(sighting(tick), torch.tensor([10.0 + tick]))
    ring.take_over(other)
    assert ring.gather(ring.ticks).flatten().tolist() == [11, 2, 13, 5]


def test_labelled_before_never_falls() -> None:
    ring = filled([1])
    ring.mark_labelled(16)
    ring.mark_labelled(8)
    assert ring.labelled_before == 16
