"""Record ids: stable for ever, and different whenever any field differs."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_examples import LATENCY, MODEL, PRODUCER, labelled, span

from streamfer.records import ClipCaptioned, ClipLabelled, Gap, SourceStateChanged
from streamfer.records.identity import identify

# Lone surrogates too: they are what undecodable file names are made of.
anything = st.text(st.characters(codec=None), max_size=12)
fields = st.lists(anything | st.integers(-999, 999) | st.none(), min_size=3, max_size=8)


@given(st.tuples(anything, fields), st.tuples(anything, fields))
def test_equal_exactly_when_every_field_is(one: tuple[str, list[Any]], other: tuple[str, list[Any]]) -> None:
    assert (identify(one[0], *one[1]) == identify(other[0], *other[1])) == (one == other)
    assert identify(one[0], *one[1]) == identify(one[0], *list(one[1]))


@given(anything, anything, anything, st.text(min_size=1, max_size=5))
def test_moving_text_across_a_field_boundary_changes_the_id(kind: str, one: str, other: str, tail: str) -> None:
    assert identify(kind, one + tail, other) != identify(kind, one, tail + other)
    assert identify(kind + tail, one) != identify(kind, tail + one)


def clip(**changes: Any) -> ClipLabelled:
    place: dict[str, Any] = {"epoch_key": "1772600765000", "epoch": 2, "start_pts": 90, "end_pts": 180}
    return labelled(span(**{**place, "time_base": (1, 90000), **changes}))


def captioned(labelled_id: str, digest: str, question: str | None = None) -> ClipCaptioned:
    values: dict[str, Any] = {"clip": span(), "track_id": "0-3", "track": 3, "text": "", "question": question}
    model = MODEL.model_copy(update={"digest": digest})
    return ClipCaptioned(clip_id=labelled_id, **values, model=model, producer=PRODUCER, latency_ms=LATENCY)


def state(**changes: Any) -> SourceStateChanged:
    values: dict[str, Any] = {"epoch": 1, "state": "backoff", "attempt": 4, "wall_time": 1772600765.25}
    return SourceStateChanged(**{**values, **changes}, producer=PRODUCER)


def gap(**changes: Any) -> Gap:
    values: dict[str, Any] = {"epoch_key": "k", "epoch": 0, "cause": "queue_full", "start_time": 1.5, "end_time": 2.25}
    counted: dict[str, Any] = {"unit": "frames", "count": 2, "time_origin": "file"}
    return Gap(**{**values, **counted, **changes}, producer=PRODUCER)


def test_golden_ids() -> None:
    """These values are promised: changing one makes every replay a duplicate."""
    labels = clip().identity("hall")
    assert [
        labels,
        captioned(labels, "cd" * 32).identity("hall"),
        captioned(labels, "cd" * 32, "Is she smiling?").identity("hall"),
        state().identity("hall"),
        gap().identity("hall"),
    ] == [
        "21fe091a-d6d9-5e16-93c2-65020cb3ce91",
        "af82ddac-06a9-56b1-9728-1e17d3496c72",
        "7050b434-e363-5a27-8591-41a0460cb6d5",
        "839602f8-22db-5094-8438-7702519e1364",
        "6de9eef7-6f6e-50d5-8ead-224c7b99d6fd",
    ]
    assert uuid.UUID(labels).version == 5


def test_a_time_base_counts_in_lowest_terms() -> None:
    assert clip(time_base=(2, 50)).identity("a") == clip(time_base=(1, 25)).identity("a")


@pytest.mark.parametrize(
    "changes", [{"epoch_key": "l"}, {"epoch": 3}, {"start_pts": 91}, {"end_pts": 181}, {"time_base": (1, 1000)}]
)
def test_clip_ids_differ(changes: dict[str, Any]) -> None:
    assert clip(**changes).identity("a") != clip().identity("a")


def test_clips_of_other_sources_tracks_and_models_differ() -> None:
    other = clip().model_copy(update={"model": MODEL.model_copy(update={"digest": "cd" * 32})})
    ids = {
        clip().identity("a"),
        clip().identity("b"),
        other.identity("a"),
        labelled(clip().clip, track=4).identity("a"),
    }
    assert len(ids) == 4


@pytest.mark.parametrize("changes", [{"epoch": 2}, {"state": "online"}, {"attempt": 5}, {"wall_time": 1.000001}])
def test_state_ids_differ(changes: dict[str, Any]) -> None:
    assert state(wall_time=1.0).identity("a") != state(**{"wall_time": 1.0, **changes}).identity("a")


@pytest.mark.parametrize(
    "changes", [{"epoch_key": "l"}, {"epoch": 1}, {"cause": "too_old"}, {"start_time": 1.25}, {"end_time": 2.5}]
)
def test_gap_ids_differ(changes: dict[str, Any]) -> None:
    assert gap(**changes).identity("a") != gap().identity("a")
