"""The grammar says exactly what the labels say, in thousands of ways; rules and labels keep to their forms."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamfer.captions.checks import contradictions, repeats
from streamfer.captions.reading import read
from streamfer.captions.vocabulary import ACTION_UNITS, EMOTION_WORDS, JOINT, SINGLE, Wording, inflect
from streamfer.errors import RecordError
from streamfer_train.captions.grammar import (
    action_caption,
    captions,
    describe,
    emotion_caption,
    reasons_for,
    rule_caption,
)
from streamfer_train.captions.labels import FaceLabels

UNITS = st.frozensets(st.sampled_from(sorted(ACTION_UNITS)), max_size=9)
EMOTIONS = st.lists(st.sampled_from(sorted(EMOTION_WORDS)), max_size=2, unique=True)
PAPER_UNITS = "1,2,4,5,6,7,8,9,10,11,12,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,43"


@st.composite
def faces(draw: st.DrawFn) -> FaceLabels:
    units = draw(UNITS)
    emotions = draw(EMOTIONS)
    strengths = {unit: draw(st.integers(1, 5)) for unit in units if draw(st.booleans())}
    return FaceLabels(units, tuple(emotions), strengths)


@settings(max_examples=80, deadline=None)
@given(faces(), st.integers(0, 10**6))
def test_a_caption_mentions_exactly_its_labels(labels: FaceLabels, seed: int) -> None:
    text = describe(labels, seed)
    said = read(text)
    assert said.units == labels.action_units, text
    assert not said.denied, text
    named = set(labels.emotions) - ({"neutral"} if len(labels.emotions) > 1 else set())
    assert set(said.emotions) == named, text
    assert list(contradictions(said, labels)) == [], text


@settings(max_examples=80, deadline=None)
@given(faces(), st.integers(0, 10**6))
@example(FaceLabels(frozenset({25, 1, 2, 4, 5, 6}), ("fear", "happiness")), 0)
def test_a_caption_is_tidy_english(labels: FaceLabels, seed: int) -> None:
    text = describe(labels, seed)
    assert describe(labels, seed) == text
    assert not re.search(r"\baus?\b|action unit|[{}|]|  | ,|\.\.", text, re.IGNORECASE), text
    assert re.fullmatch(r"(?:[A-Z][^.]*\.(?: |$))+", text), text
    assert not repeats(text), text
    assert not re.search(r"\b(\w+) \1\b", text), text


@pytest.mark.parametrize("row", [*SINGLE, *JOINT], ids=lambda row: "+".join(map(str, sorted(row.units))))
def test_every_wording_is_read_back(row: Wording) -> None:
    be = "are" if row.plural else "is"
    texts = [f"The {part} {be} {state}." for part in row.parts for state in row.states]
    texts += [f"The person {_third(deed).format(f'the {part}')}." for part in row.parts for deed in row.deeds]
    texts += [f"The {part} {move}." for part in row.parts for move in row.moves]
    texts += [f"The face shows {adjective} {name}." for adjective in row.adjectives for name in row.short]
    assert {text: sorted(read(text).units) for text in texts if read(text).units != row.units} == {}


def _third(deed: str) -> str:
    first, _, rest = deed.partition(" ")
    return f"{inflect(first)} {re.sub(r'^and (press)', 'and presses', rest)}"


@pytest.mark.parametrize("units", [[20], [43], [1, 4, 15], [6, 12, 25, 26]])
def test_a_label_set_has_thousands_of_captions(units: list[int]) -> None:
    found = captions(FaceLabels.of(units), 2000)
    assert len(set(found)) == len(found) == 2000


def test_a_resting_face_has_many_captions_and_no_action() -> None:
    found = captions(FaceLabels.of([]), 1000)
    assert len(found) == 1000
    assert [text for text in found[:200] if read(text).units or read(text).denied] == []


def test_seeds_differ_and_do_not_depend_on_order() -> None:
    labels = FaceLabels.of([1, 2, 5, 25, 26], "surprise")
    assert len({describe(labels, seed) for seed in range(50)}) >= 48
    assert describe(labels, 7) == describe(FaceLabels.of([26, 25, 5, 2, 1], "surprised"), 7)


def test_reasons_are_present_and_belong_to_the_emotion() -> None:
    labels = FaceLabels.of([4, 12, 25], "happy")
    assert reasons_for(labels, "happiness") == {12, 25}
    texts = [describe(labels, seed).split(".")[-2] for seed in range(60)]
    assert all(read(text).units <= {12, 25} for text in texts)
    assert sum(bool(read(text).units) for text in texts) > 20


def test_intensity_is_said_and_without_it_nothing_is() -> None:
    strong = [describe(FaceLabels(frozenset({12}), (), {12: 5}), seed) for seed in range(40)]
    assert all("very" in text or "most" in text for text in strong)
    plain = [describe(FaceLabels.of([12]), seed) for seed in range(40)]
    assert not any(re.search(r"very|slightly|barely|strongly", text) for text in plain)


def test_rule_captions_have_the_released_form() -> None:
    labels = FaceLabels.of([24, 10, 14, 17], "happily", "surprised")
    wanted = "It is a people who raises upper lip, tightens lip corner, raises chin and presses lips."
    assert action_caption(labels) == wanted
    assert emotion_caption(labels) == "The face shows happiness and surprise."
    assert rule_caption(labels) == f"{wanted} The face shows happiness and surprise."
    assert rule_caption(FaceLabels.of([])) is None
    assert action_caption(FaceLabels.of([8])) == "It is a people who pulls lips toward each other."


def test_the_vocabulary_is_the_papers() -> None:
    assert sorted(ACTION_UNITS) == [int(unit) for unit in PAPER_UNITS.split(",")]
    verbs = {unit: ACTION_UNITS[unit].third_person for unit in (7, 11, 19, 22, 25, 27, 43)}
    assert verbs == {7: "tightens lids", 11: "deepens nasolabial", 19: "sticks tongue out", 22: "shows lip funneler",
                     25: "separates lips", 27: "stretches mouth", 43: "closes eyes"}  # fmt: skip
    assert {row.units for row in SINGLE} == {frozenset({unit}) for unit in ACTION_UNITS}


def test_labels_come_back_from_json() -> None:
    labels = FaceLabels.from_json({"action_units": [1, "4C"], "emotions": ["Sad", "sleepy"], "coded": [1, 4, 12]})
    assert labels == FaceLabels(frozenset({1, 4}), ("sadness", "sleepy"), {4: 3}, frozenset({1, 4, 12}))
    assert FaceLabels.from_json(labels.to_json()) == labels
    assert labels.absent == {12}
    assert FaceLabels.of([12]).absent == ACTION_UNITS.keys() - {12}
    assert FaceLabels.of(None, "happy").absent == frozenset()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"action_units": [13]}, "action unit 13: is none of the 27"),
        ({"action_units": "12"}, "field action_units: must be a list"),
        ({"action_units": [True]}, "field action_units: True is no unit"),
        ({"action_units": ["1X"]}, "'1X' is no unit"),
        ({"action_units": [12], "coded": [1]}, "action unit 12: present, yet not among the coded"),
        ({"emotions": [""]}, "field emotions: must be a list of words"),
    ],
)
def test_malformed_labels_are_named(entry: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=re.escape(message)):
        FaceLabels.from_json(entry)
