"""Questions and answers of a showing as tokens, written afresh each time, and the vocabulary they are written in."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from streamfer.models.captioning.context import ClipContext
from streamfer.models.captioning.mini_vocabulary import MiniVocabulary, control_tokens
from streamfer_train.captions.cues import parts
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.questions import (
    ASKED_REGIONS,
    Question,
    global_question,
    questions,
    region_question,
    region_units,
)
from streamfer_train.captions.vocabulary import OPPOSED, in_order
from streamfer_train.mini.data import CLASSES
from streamfer_train.mini_captions.asking import emotion_question, reworded
from streamfer_train.mini_captions.faces import UNITS, Shown, drawn_course
from streamfer_train.mini_captions.recipe import TrainPart

#: Label sets whose texts the vocabulary is made from.
_SAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Example:
    """One question about one showing, and its answer.

    Attributes:
        number: place of the showing in its batch of showings.
        course: as `ClipContext.course`.
        question: ids.
        answer: ids, from the opening token to the end token.
        unknown: units that the answer's plan cannot tell about.
    """

    number: int
    course: tuple[int, int, int]
    question: tuple[int, ...]
    answer: tuple[int, ...]
    unknown: frozenset[int]


def train_vocabulary(size: int, seed: int = 0) -> MiniVocabulary:
    """Learn a byte-level BPE of at most `size` tokens from what the grammar writes and asks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = control_tokens(UNITS, CLASSES)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(token, special=True) for token in control],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_samples(random.Random(f"vocabulary/{seed}")), trainer)
    return MiniVocabulary(tokenizer, UNITS, CLASSES)


def _samples(draw: random.Random) -> Iterator[str]:
    for number in range(_SAMPLES):
        units = frozenset(draw.sample(UNITS, draw.choice((0, 1, 2, 3, 4, 6))))
        units = units if not any(pair <= units for pair in OPPOSED) else frozenset()
        labels = FaceLabels(units, (draw.choice(CLASSES),), course=drawn_course(draw))
        for _, asked in questions([labels], seed=number):
            # BPE merges what is frequent inside words; a blank before the first word makes it the word it is.
            yield asked.question
            yield f" {asked.answer}"
            if asked.unit is not None:
                yield reworded(asked, draw).question
        yield from (text for one in [emotion_question(labels, CLASSES, draw)] for text in (one.question, one.answer))


def examples(
    showings: Sequence[Shown], words: MiniVocabulary, part: TrainPart, seed: str, limit: int
) -> Iterator[Example]:
    """Ask about each showing: describe it, a region, an action unit, the emotion; texts follow from `seed`.

    Questions about units are balanced as far as the showings allow. Questions of more than `limit` tokens are left
    out.
    """
    draw = random.Random(seed)
    number = draw.randrange(1 << 30)
    for index, question, labels, context in _asked(showings, part, draw, number):
        ids = words.words(question.question)
        if len(ids) <= limit:
            answer = answer_ids(words, question, labels)
            yield Example(index, context.course, tuple(ids), answer, showings[index].unknown)


def _asked(
    showings: Sequence[Shown], part: TrainPart, draw: random.Random, seed: int
) -> Iterator[tuple[int, Question, FaceLabels, ClipContext]]:
    nothing = ClipContext()
    for index, shown in enumerate(showings):
        labels, context = shown.labels, nothing
        if draw.random() < part.course:
            course = drawn_course(draw)
            labels = replace(labels, course=course)
            context = ClipContext(course.apex, course.onset, course.offset)
        yield index, global_question(labels, f"{seed}/{index}"), labels, context
        if shown.labels.emotions and draw.random() < part.feeling:
            asked = emotion_question(shown.labels, CLASSES, draw)
            yield index, asked, FaceLabels(None, shown.labels.emotions), nothing
    for index, asked in questions([shown.labels for shown in showings], seed=seed, regions=0, units=1):
        if asked.kind == "unit":
            yield index, reworded(asked, draw), showings[index].labels, nothing
    for index, shown in enumerate(showings):
        if draw.random() < part.region:
            regions = draw.sample(list(ASKED_REGIONS), len(ASKED_REGIONS))
            known = (region_question(shown.by_region, region, f"{seed}/{index}") for region in regions)
            # Of a region whose units nobody coded nothing can be said.
            if asked_region := next(filter(None, known), None):
                yield index, asked_region, shown.labels, nothing


def answer_ids(words: MiniVocabulary, question: Question, labels: FaceLabels) -> tuple[int, ...]:
    """Return an answer with its plan and, among its words, its cues, from the opening token to the end token."""
    if question.kind == "unit":
        # What is asked about comes first, and is easily learnt; whether it is there, behind it.
        about = words.emotion(question.emotion) if question.emotion else words.unit(question.unit or 0)
        return (words.answer, about, words.yes if question.answer == "yes" else words.no, words.end)
    units = labels.action_units or frozenset()
    if question.region is not None:
        units &= region_units(question.region)
    plan = [words.unit(unit) for unit in in_order(units & frozenset(words.units))]
    feeling = [words.emotion(emotion) for emotion in labels.emotions[:1]] if question.region is None else []
    said: list[int] = []
    for part in parts(f" {question.told}"):
        if isinstance(part, str):
            said += words.words(part)
        else:
            said += feeling if part is None else [words.unit(part)]
    return (words.answer, *plan, *feeling, words.say, *said, words.end)
