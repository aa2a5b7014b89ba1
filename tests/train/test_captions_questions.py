"""Questions from labels: the right answers, many wordings, and as many yes as no."""

from __future__ import annotations

import random
import re
from collections import Counter

from streamfer.captions.reading import read
from streamfer.captions.vocabulary import ACTION_UNITS
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.questions import (
    ASKED_REGIONS,
    global_question,
    questions,
    region_question,
    region_units,
    unit_question,
)

DRAW = random.Random(5)
FACES = [
    FaceLabels.of([unit for unit in ACTION_UNITS if DRAW.random() < 0.15], DRAW.choice(["happy", "sad"]))
    for _ in range(120)
]


def test_every_unit_is_asked_as_often_with_yes_as_with_no() -> None:
    asked = Counter((question.unit, question.answer) for _, question in questions(FACES, units=4))
    counts = {unit: (asked[unit, "yes"], asked[unit, "no"]) for unit, _ in asked if unit is not None}
    assert counts.keys() == ACTION_UNITS.keys()
    assert all(abs(yes - no) <= 1 for yes, no in counts.values())
    assert sum(yes + no for yes, no in counts.values()) > 200


def test_answers_are_those_of_the_labels() -> None:
    for index, question in questions(FACES[:60]):
        labels = FACES[index]
        assert labels.action_units is not None
        if question.kind == "unit":
            assert question.unit is not None
            assert question.answer == ("yes" if question.unit in labels.action_units else "no")
            assert read(question.question.removesuffix("?")).units == {question.unit}, question
        elif question.kind == "region":
            assert read(question.answer).units == labels.action_units & region_units(question.region or ""), question
            assert question.region is not None
            assert question.region in question.question
        else:
            assert read(question.answer).units == labels.action_units


def test_a_unit_that_another_brings_along_is_not_asked_as_absent() -> None:
    asked = [q for _, q in questions([FaceLabels.of([26])] * 40, units=27) if q.kind == "unit"]
    assert all(question.unit != 25 for question in asked)


def test_what_nobody_coded_is_not_asked() -> None:
    partly = FaceLabels(frozenset({12}), (), {}, frozenset({12, 4}))
    assert {q.unit for _, q in questions([partly] * 5) if q.kind == "unit"} <= {12, 4}
    assert region_question(partly, "eyes", 0) is None
    assert region_question(FaceLabels.of(None, "happy"), "mouth", 0) is None
    assert {q.kind for _, q in questions([FaceLabels.of(None, "happy")])} == {"global"}


def test_wordings_vary_and_repeat_with_the_seed() -> None:
    assert len({unit_question(12, True, seed).question for seed in range(60)}) > 15
    assert list(questions(FACES[:5], seed=3)) == list(questions(FACES[:5], seed=3))
    assert list(questions(FACES[:5], seed=3)) != list(questions(FACES[:5], seed=4))


def test_a_region_at_rest_has_grammatical_answers() -> None:
    still = FaceLabels.of([])
    for region in ASKED_REGIONS:
        answers = {question.answer for seed in range(30) if (question := region_question(still, region, seed))}
        assert len(answers) == 4
        assert f"The {region} {'rests' if region.endswith(('nose', 'mouth', 'face')) else 'rest'}." in answers


def test_a_question_asks_for_nothing_that_its_answer_cannot_hold() -> None:
    feelings = re.compile(r"emotion|feel|suggest|expression", re.IGNORECASE)
    for seed in range(40):
        assert not feelings.search(global_question(FaceLabels.of([1, 12]), seed).question)
        assert "action" not in global_question(FaceLabels.of(None, "happy"), seed).question
    asked = {global_question(FaceLabels.of([12], "happy"), seed).question for seed in range(60)}
    assert any(feelings.search(question) for question in asked)
