"""What the captioner learns from: labels of two kinds of faces, and texts that say exactly what their plans say."""

from __future__ import annotations

import random
from collections import Counter

import mini_corpus
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamfer.models.captioning.mini_vocabulary import MiniVocabulary
from streamfer_train.captions.cues import capital, emotion_cue, parts, plain, unit_cues
from streamfer_train.captions.grammar import describe, describe_cued
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.vocabulary import EMOTION_WORDS, implied
from streamfer_train.metrics.mentions import read
from streamfer_train.mini.data import CLASSES, Pictures
from streamfer_train.mini_captions import texts
from streamfer_train.mini_captions.faces import (
    NUMBERS,
    PHOTOGRAPHED,
    UNITS,
    Films,
    Shown,
    Stills,
    drawn_course,
    photograph_labels,
    without_opposed,
)
from streamfer_train.mini_captions.recipe import TrainPart
from streamfer_train.mini_captions.texts import Example
from streamfer_train.render.expressions import EMOTIONS


@pytest.fixture(scope="module")
def words() -> MiniVocabulary:
    return texts.train_vocabulary(1_200)


def photographs(**intensities: float) -> Pictures:
    """One photograph with given intensities, in percent, by names such as AU12; its other known units are zero."""
    pictures = mini_corpus.pictures("fer2013_train", 2, 48, 48.0).subset(torch.tensor([1]))
    pictures.units[:] = torch.where(pictures.units.isnan(), torch.nan, 0.0)
    for name, value in intensities.items():
        pictures.units[0, NUMBERS.index(int(name[2:]))] = value
    return pictures


def test_a_photograph_knows_what_its_scores_show_and_nothing_of_cheeks_and_nose() -> None:
    (labels,) = photograph_labels(photographs(AU12=0.7, AU25=0.41, AU04=0.39))
    assert labels.action_units == {12, 25}
    assert labels.coded == PHOTOGRAPHED
    shown = Shown((0,), labels)
    assert shown.unknown == {6, 9, 23}
    assert not shown.by_region.absent & {6, 9, 11}
    assert {23, 19, 4} <= shown.by_region.absent


def test_a_photograph_without_scores_is_not_shown() -> None:
    pictures = mini_corpus.pictures("faces", 9, 64, 64.0)
    stills = Stills(pictures, views=2, keyframes=3)
    assert stills.known == [1, 2, 4, 5, 7, 8]
    draw = random.Random(0)
    shown = [stills.draw(face, draw) for face in range(len(stills)) for _ in range(20)]
    assert {row // 2 for one in shown for row in one.rows} == set(stills.known)
    assert {len(one.rows) for one in shown} == {1, 2, 3}
    assert all(len({row // 2 for row in one.rows}) == 1 for one in shown)


def test_of_two_units_that_exclude_each_other_the_stronger_is_kept() -> None:
    pictures = photographs(AU24=0.9, AU25=0.5, AU26=0.6, AU12=0.5)
    assert photograph_labels(pictures)[0].action_units == {24, 12}
    assert photograph_labels(pictures, raw=True)[0].action_units == {24, 25, 26, 12}
    intensities = np.zeros(len(NUMBERS), np.float32)
    intensities[NUMBERS.index(43)] = 1
    assert without_opposed(frozenset({5, 43}), intensities) == {43}


def test_a_rendered_clip_shows_its_apex_and_says_what_its_keyframes_show() -> None:
    clips = mini_corpus.clips(14)
    moments = [0, 5, 10, 15]
    films = Films(clips, moments, keyframes=3)
    draw = random.Random(1)
    for clip in range(len(films)):
        neutral = EMOTIONS[clips.emotions[clip]] == "neutral"
        apex = int(clips.envelope[clip, moments].argmax())
        for _ in range(12):
            shown = films.draw(clip, draw)
            views = [row - 4 * clip for row in shown.rows]
            assert views == sorted(set(views))
            assert set(views) <= set(range(4))
            assert neutral or apex in views
            strongest = clips.action_units[clip, [moments[view] for view in views]].max(axis=0)
            units = {number for number, value in zip(NUMBERS, strongest, strict=True) if value >= 0.4}
            assert (shown.labels.action_units or set()) <= units
            assert shown.unknown == frozenset()
            assert shown.labels.emotions == ((EMOTIONS[clips.emotions[clip]],) if units else ("neutral",))


def asked(words: MiniVocabulary, count: int = 60) -> tuple[list[Shown], list[Example]]:
    """Faces with random units, half of them photographs, and everything that is asked about them."""
    draw = random.Random(7)
    showings = []
    for number in range(count):
        coded = PHOTOGRAPHED if number % 2 else frozenset(NUMBERS)
        units = without_opposed(
            frozenset(draw.sample(sorted(coded), draw.randint(0, 5))), np.zeros(len(NUMBERS), np.float32)
        )
        emotion = draw.choice(CLASSES) if units else "neutral"
        showings.append(Shown((number,), FaceLabels(units, (emotion,), coded=coded)))
    part = TrainPart(course=0.5, region=1.0, feeling=0.6)
    return showings, list(texts.examples(showings, words, part, "3/0/1", 48))


def planned(words: MiniVocabulary, one: Example) -> tuple[set[int], list[str]]:
    """Units and emotions of an example's plan."""
    units = {unit for unit in UNITS if words.unit(unit) in one.answer}
    return units, [emotion for emotion in CLASSES if words.emotion(emotion) in one.answer]


def test_every_text_says_what_its_plan_says(words: MiniVocabulary) -> None:
    showings, examples = asked(words)
    regions = descriptions = 0
    for one in examples:
        units, emotions = planned(words, one)
        if words.say not in one.answer:
            continue
        said = read(words.text(one.answer[1:-1]))
        assert implied(said.units) == implied(units)
        assert list(said.emotions) == emotions
        labels = showings[one.number].labels
        assert units <= (labels.action_units or set())
        assert not units & one.unknown
        descriptions += units == labels.action_units and bool(emotions)
        regions += not emotions
    assert descriptions > 40
    assert regions > 40


def test_words_announce_what_they_speak_of(words: MiniVocabulary) -> None:
    _, examples = asked(words)
    first, feeling = words.unit(UNITS[0]), words.emotion(CLASSES[0])
    reasons = checked = 0
    for one in examples:
        if words.say not in one.answer:
            continue
        opened = one.answer.index(words.say)
        plan, said = one.answer[1:opened], one.answer[opened + 1 : -1]
        cues = [token for token in said if token < words.first_word]
        felt = [place for place, token in enumerate(cues) if token >= feeling]
        assert [cues[place] for place in felt] == [token for token in plan if token >= feeling]
        before, behind = (cues[: felt[0]], cues[felt[0] + 1 :]) if felt else (cues, [])
        assert sorted(before) == [token for token in plan if token < feeling]
        assert set(behind) <= set(before)
        assert all(first <= token for token in cues)
        # A cue comes before the blank of the words that it announces.
        assert "  " not in words.text(said)
        reasons += len(behind)
        checked += 1
    assert checked > 100
    assert reasons > 20


@given(st.integers(0, 500))
def test_cues_change_nothing_of_a_text(seed: int) -> None:
    labels = FaceLabels.of([1, 2, 4, 12, 25, 26], "surprise")
    told = describe_cued(labels, seed)
    assert plain(told) == describe(labels, seed)
    told_parts = list(parts(told))
    assert "".join(part for part in told_parts if isinstance(part, str)) == plain(told)
    numbers = [part for part in told_parts[: told_parts.index(None)] if isinstance(part, int)]
    assert sorted(numbers) == [1, 2, 4, 12, 25, 26]
    assert all(not part.endswith(" ") for part in told_parts if isinstance(part, str))
    assert capital(f"{emotion_cue()}{unit_cues([4])}brows sink") == f"{emotion_cue()}{unit_cues([4])}Brows sink"


def test_the_course_of_a_clip_is_told_and_said(words: MiniVocabulary) -> None:
    _, examples = asked(words)
    # Clips end, begin and have frames only where a course is spoken of.
    courses = [("clip" in words.text(one.answer), one.course) for one in examples]
    assert any(course != (0, 0, 0) for _, course in courses)
    assert not any(spoken and course == (0, 0, 0) for spoken, course in courses)
    outside = [one for one in examples if one.course[0] == 1]
    assert outside
    opened = ("first frame", "clip opens", "from the outset")
    assert all(any(phrase in words.text(one.answer) for phrase in opened) for one in outside)


def test_yes_and_no_are_asked_equally_often(words: MiniVocabulary) -> None:
    _, examples = asked(words, 200)
    spoken = [one.answer for one in examples if words.say not in one.answer]
    counts = Counter(answer[2] for answer in spoken)
    assert set(counts) == {words.yes, words.no}
    assert {(answer[0], answer[3]) for answer in spoken} == {(words.answer, words.end)}
    assert all(words.no < answer[1] < words.first_word for answer in spoken)
    assert counts[words.yes] + counts[words.no] > 150
    assert abs(counts[words.yes] - counts[words.no]) < 0.2 * counts[words.no]


def test_the_vocabulary_has_a_token_for_every_word_and_spells_what_it_never_saw(words: MiniVocabulary) -> None:
    assert len(words) <= 1_200
    _, examples = asked(words, 20)
    for one in examples:
        text = words.text(one.answer[1:-1])
        assert len([token for token in one.answer if token >= words.first_word]) <= 1.5 * len(text.split()) + 3
    for text in ("Is Zoë's über-smile 😀 real?", "AU12"):
        assert words.text(words.words(text)) == text
    assert all(len(words.words(f" {emotion}")) == 1 for emotion in EMOTION_WORDS if emotion in CLASSES)


def test_texts_are_fresh_with_every_seed_and_the_same_with_the_same(words: MiniVocabulary) -> None:
    showings = asked(words, 12)[0]
    part = TrainPart()
    first, again, other = (list(texts.examples(showings, words, part, seed, 48)) for seed in ("a", "a", "b"))
    assert first == again
    assert [one.answer for one in first] != [one.answer for one in other]


def test_a_drawn_course_comes_before_it_goes() -> None:
    draw = random.Random(0)
    drawn = [drawn_course(draw) for _ in range(200)]
    assert {one.onset is None for one in drawn} == {one.offset is None for one in drawn} == {True, False}
