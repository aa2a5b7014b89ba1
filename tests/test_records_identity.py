"""Record ids: stable for ever, and different whenever any field differs."""

from __future__ import annotations

import uuid
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfer.records import caption_id, clip_id, gap_id, state_id

# Lone surrogates too: they are what undecodable file names are made of.
anything = st.text(st.characters(codec=None), max_size=12)
clips = st.fixed_dictionaries(
    {
        "source_id": anything,
        "epoch_key": anything,
        "epoch": st.integers(0, 99),
        "start_pts": st.integers(-999, 999),
        "end_pts": st.integers(-999, 999),
        "time_base": st.fractions(min_value=Fraction(1, 100), max_value=1, max_denominator=100),
        "track": st.integers(0, 99),
        "model_digest": anything,
    }
)


def make(values: dict[str, Any]) -> str:
    return clip_id(values["source_id"], **{k: v for k, v in values.items() if k != "source_id"})


@given(clips, clips)
def test_equal_exactly_when_every_field_is(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (make(one) == make(other)) == (one == other)
    assert make(one) == make(dict(one))


@given(clips, st.sampled_from(["source_id", "epoch_key", "model_digest"]), st.text(min_size=1, max_size=5))
def test_moving_text_across_a_field_boundary_changes_the_id(values: dict[str, Any], name: str, tail: str) -> None:
    names = ["source_id", "epoch_key", "model_digest"]
    neighbour = names[(names.index(name) + 1) % 3]
    moved = {**values, name: values[name] + tail}
    other = {**values, neighbour: tail + values[neighbour]}
    assert make(moved) != make(other)


@given(*[st.tuples(anything, anything, st.none() | anything)] * 2)
def test_caption_ids(one: tuple[str, str, str | None], other: tuple[str, str, str | None]) -> None:
    assert (caption_id(*one) == caption_id(*other)) == (one == other)


def test_golden_ids() -> None:
    """These values are promised: changing one makes every replay a duplicate."""
    clip = clip_id(
        "hall",
        epoch_key="1772600765000",
        epoch=2,
        start_pts=90,
        end_pts=180,
        time_base=Fraction(1, 90000),
        track=3,
        model_digest="ab" * 32,
    )
    assert [
        clip,
        caption_id(clip, "cd" * 32),
        caption_id(clip, "cd" * 32, "Is she smiling?"),
        state_id("hall", epoch=1, state="backoff", attempt=4, wall_time=1772600765.25),
        gap_id("hall", epoch_key="k", epoch=0, cause="queue_full", start_time=1.5, end_time=2.25),
    ] == [
        "21fe091a-d6d9-5e16-93c2-65020cb3ce91",
        "af82ddac-06a9-56b1-9728-1e17d3496c72",
        "7050b434-e363-5a27-8591-41a0460cb6d5",
        "839602f8-22db-5094-8438-7702519e1364",
        "6de9eef7-6f6e-50d5-8ead-224c7b99d6fd",
    ]
    assert uuid.UUID(clip).version == 5


def test_a_time_base_counts_in_lowest_terms() -> None:
    values: dict[str, Any] = {
        "epoch_key": "k",
        "epoch": 0,
        "start_pts": 0,
        "end_pts": 9,
        "track": 0,
        "model_digest": "d",
    }
    assert clip_id("a", time_base=Fraction(2, 50), **values) == clip_id("a", time_base=Fraction(1, 25), **values)


@pytest.mark.parametrize("changes", [{"epoch": 2}, {"state": "online"}, {"attempt": 5}, {"wall_time": 1.000001}])
def test_state_ids_differ(changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {"epoch": 1, "state": "backoff", "attempt": 4, "wall_time": 1.0}
    assert state_id("a", **values) != state_id("a", **{**values, **changes})
