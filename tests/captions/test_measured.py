# ruff: noqa: E501 - a grammar is read line by line
"""Measured words over many records: grammar, vocabulary, every measured unit said and none else, no contradiction."""

from __future__ import annotations

import functools
import random
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
from record_examples import examples

from streamfer.captions.checks import contradictions, faults, repeats
from streamfer.captions.measured import describe
from streamfer.captions.measurements import Measurements, Unit, measure, units_of
from streamfer.captions.reading import read
from streamfer.captions.vocabulary import ACTION_UNITS, OPPOSED, implied
from streamfer.pipeline.observer import UnitTrack
from streamfer.records import ClipLabelled, FaceReading

NAMES = tuple(f"AU{number:02d}" for number in sorted(ACTION_UNITS))
CLASSES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear", "contempt", "sleepy")
#: Ten thousand take most of a minute.
RECORDS = pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])

#: Every word that a caption may hold, besides numbers and the names of foreign labels.
WORDS = frozenset(
    word
    for line in (
        "a about also an and anger are as at be begins besides but by can cannot clear clearly clip confidence contempt",
        "disgust eight each expression face fades fainter far fear five for four from gone half happiness hard head hint in",
        "instead into is it its label lasts likely looks may might more most mostly movement movements neutral nine no not of",
        "long on one open other out peaks people probably quarter quarters read reads rest s sadness same seen sets seven",
        "shows single six slightly small smile stands stays strongest strongly sure surprise tell ten than that the there",
        "third thirds this three through time to too turned two up view well which whole with blurred told",
        "brows cheeks chin corners creases ends eyebrows eyelids eyes folds inner jaw lid lids lip lips lower mouth nasolabial",
        "neck nose outer tongue upper beside closed converging crinkled deeper deepened depressed dimpled down downward drawn",
        "dropped funnelled furrowed knitted lifted lowered made narrowed outward inward parted pressed pulled puckered pushed",
        "raised rolled sucked sucked-in separated shut sideways stretched stuck tensed tightened together toward tucked",
        "second upward visible wide wrinkled opened pronounced",
    )
    for word in line.split()
)

_PARTS = r"[a-z]+(?: [a-z]+){0,5}?"
_STATE = (
    r"(?:strongly |slightly )?[a-z]+(?: (?:up|down|in|inward|upward|downward|outward|together|sideways|wide|open|out|deeper"
    r"|toward each other))*(?: in a smile)?"
)
_STATES = rf"{_STATE}(?:, {_STATE})*(?: and {_STATE})?"
_CLAUSE = rf"the {_PARTS} (?:is|are) {_STATES}"
_SHAPE = r"(?:an? )?(?:strongly |slightly )?[a-z-]+(?:, (?:strongly |slightly )?[a-z-]+)?(?: [a-z]+){1,3}"
_WHEN = r"\d+\.\d s|\d+:\d\d\.\d|second \d+\.\d"
_EMOTION = r"[a-z]+"
#: What a sentence may be: a small grammar of its own, which knows nothing of how captions are made.
SENTENCES = [re.compile(pattern) for pattern in (
    rf"(?:the face (?:clearly |probably )?shows|the expression reads as|this is most likely|this is an expression of"
    rf"|this is a clear expression of|the expression is (?:clearly |probably )?one of|there is no more than a hint of) {_EMOTION}",
    rf"(?:this may be|the expression might be one of) {_EMOTION}, but (?:that is not sure|it is hard to tell)",
    r"the (?:expression|face) (?:is|looks) (?:clearly |probably |mostly )?neutral",
    r"the (?:expression|face) (?:may|might) be neutral, but (?:that is not sure|it is hard to tell)",
    r"the label (?:is|may be) (?:clearly |probably )?“[a-z ]+”(?:, but that is not sure)?",
    r"the face is too (?:small|blurred) for its expression to be read",
    r"the head is turned too far for the expression to be read",
    r"which expression this is stays open|the expression cannot be told with confidence",
    r"no (?:single )?movement(?: of the face)? stands out|the face is at rest",
    rf"(?:(?:besides|also|at the same time), )?{_CLAUSE}(?:, {_CLAUSE})*(?: and {_CLAUSE})?",
    rf"(?:the face|it also) shows {_SHAPE}(?:, {_SHAPE})*(?: and {_SHAPE})?",
    rf"at (?:{_WHEN}) {_CLAUSE}(?:, {_CLAUSE})*(?: and {_CLAUSE})?(?: instead)?",
    rf"the (?:expression|movement|strongest movement) (?:(?:sets in|begins) at (?:{_WHEN})(?:, | and ))?(?:is strongest|peaks) at (?:{_WHEN})"
    rf"(?:(?:, | and )(?:is gone|fades) by (?:{_WHEN}))?",
    r"the (?:expression|movement|strongest movement) lasts (?:through the whole clip|as long as the face is seen)",
    r"(?:two|three|four|five|six|seven|eight|nine|ten|\d+) people are in view",
    r"the face is seen in about (?:a quarter|a third|half|two thirds|three quarters) of the clip",
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|\d+) fainter (?:movement is|movements are) there as well",
)]  # fmt: skip


@functools.cache
def labelled() -> ClipLabelled:
    found = examples()["clip.labelled.v1"].data
    assert isinstance(found, ClipLabelled)
    return found


def random_record(draw: random.Random) -> tuple[ClipLabelled, UnitTrack | None]:
    """A record with any label, any units in any course, seen well or badly."""
    base = labelled()
    chances = np.array([draw.random() ** 3 for _ in CLASSES]) + 1e-3
    emotions = dict(zip(CLASSES, (chances / chances.sum()).tolist(), strict=True))
    top = max(emotions, key=emotions.__getitem__)
    names = draw.sample(NAMES, draw.choice((0, 1, 2, 3, 4, 6, 9, 14, len(NAMES))))
    sampled = draw.choice((1, 2, 16))
    values = np.zeros((sampled, len(names)), np.float32)
    for place in range(len(names)):
        middle, width, peak = draw.uniform(-2, 18), draw.uniform(0.5, 12), draw.random()
        values[:, place] = peak * np.exp(-(((np.arange(sampled) - middle) / width) ** 2))
    means = dict(zip(names, values.mean(axis=0).tolist(), strict=True)) or None
    peaks = dict(zip(names, values.max(axis=0).tolist(), strict=True)) or None
    face: FaceReading = base.faces[0].model_copy(
        update={"emotions": emotions, "top": top, "action_units": means, "action_units_peak": peaks}
    )
    start = draw.choice((0.0, 3.25, 75.5, 1.7e9))
    clip = base.clip.model_copy(
        update={
            "start_time": start, "end_time": start + 2, "time_origin": "wallclock" if start > 1e9 else "file",
            "frames_sampled": sampled, "frames_real": draw.randint(1, sampled),
        }
    )  # fmt: skip
    seconds = tuple(start + 2 * step / max(1, sampled - 1) for step in range(sampled))
    thresholds = tuple(draw.uniform(0.1, 0.5) for _ in names)
    track = UnitTrack(tuple(names), thresholds, seconds, values) if names and draw.random() < 0.8 else None
    return base.model_copy(update={"faces": (face,), "clip": clip}), track


def cases(count: int) -> Iterator[tuple[str, Measurements]]:
    draw = random.Random(13)
    for number in range(count):
        label, track = random_record(draw)
        measured = measure(label, track, people=draw.choice((None, 1, 2, 3, 14)))
        if number % 10 == 0:
            reason = draw.choice(("small", "turned", "blurred", "uncertain"))
            units = measured.units if reason == "uncertain" else ()
            measured = Measurements(None, 0.0, units, measured.start, measured.end, reason=reason)
        yield str(number), measured


@functools.cache
def captions(count: int) -> list[tuple[Measurements, str]]:
    return [(measured, describe(measured, seed)) for seed, measured in cases(count)]


def sentences(text: str) -> list[str]:
    return [part.lower() for part in re.split(r"(?<=[^\d])\.(?: |$)|(?<=\d)\.(?: (?=[A-Z\d])|$)", text) if part]


@RECORDS
@pytest.mark.no_cover  # which lines run is seen in the other tests; watched, so many captions take twice as long
def test_every_sentence_parses_and_every_word_is_known(count: int) -> None:
    for _, text in captions(count):
        assert text[0].isupper()
        assert text.endswith(".")
        assert len(text.split()) <= 60
        for sentence in sentences(text):
            assert any(grammar.fullmatch(sentence) for grammar in SENTENCES), sentence
        words = set(re.findall(r"[a-z-]+", re.sub(r"“[^”]*”", "", text.lower())))
        assert words <= WORDS, (words - WORDS, text)


@RECORDS
@pytest.mark.no_cover
def test_what_was_measured_is_said_and_nothing_else(count: int) -> None:
    cut = 0
    for measured, text in captions(count):
        said, true = read(text), measured.action_units or frozenset()
        assert implied(said.units) <= implied(true), text
        assert tuple(said.emotions) == tuple(name for name in measured.emotions if name != "sleepy"), text
        if "fainter" in text:
            cut += 1
        else:
            assert implied(true) <= implied(said.units), text
        assert not list(contradictions(said, measured)), text
        assert not repeats(text), text
        assert not faults(text, measured, complete=False), text
    assert cut < 0.02 * count


def test_people_what_is_seen_and_why_nothing_can_be_read_are_said() -> None:
    for seed in range(20):
        said = describe(Measurements("anger", 0.9, (), 0.0, 2.0, people=3, seen=0.52), str(seed))
        assert said.endswith("Three people are in view. The face is seen in about half of the clip."), said
        alone = describe(Measurements("anger", 0.9, (), 0.0, 2.0, people=1, seen=0.9), str(seed))
        assert "view" not in alone
        assert "seen" not in alone
        for reason in ("turned", "small", "blurred"):
            assert f"too {'far' if reason == 'turned' else reason}" in describe(
                Measurements(None, 0.0, (), 0.0, 2.0, reason=reason), str(seed)
            )


def test_how_strong_a_movement_is_stands_with_the_strongest_one() -> None:
    found = [describe(Measurements("anger", 0.9, (Unit(4, 0.99, 0.3), Unit(9, 0.32, 0.3)), 0.0, 2.0), str(seed))
             for seed in range(20)]  # fmt: skip
    assert all(re.search(r"brows are strongly (lowered|pulled down)", text) for text in found), found
    assert not any("slightly" in text for text in found)
    faint = Measurements("anger", 0.9, (Unit(9, 0.32, 0.3),), 0.0, 2.0)
    assert "nose is slightly wrinkled" in describe(faint, "1") or "nose is slightly crinkled" in describe(faint, "1")
    folds = [describe(Measurements("anger", 0.9, (Unit(11, 0.99, 0.3),), 0.0, 2.0), str(seed)) for seed in range(20)]
    assert all(re.search("are strongly (deepened|pronounced)", text) for text in folds), folds
    clear = describe(Measurements("anger", 0.9, (Unit(9, 0.6, 0.3),), 0.0, 2.0), "1")
    assert not re.search("strongly|slightly", clear)


def test_a_unit_has_its_times_and_an_unreadable_face_none() -> None:
    label, _ = random_record(random.Random(1))
    seconds = tuple(step / 8 for step in range(16))
    values = np.zeros((16, 1), np.float32)
    values[4:12, 0] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.8, 0.7, 0.6)
    track = UnitTrack(("AU12",), (0.4,), seconds, values)
    (unit,) = units_of(track)
    assert (unit.onset, unit.apex, unit.offset) == (0.625, 1.0, 1.5)
    turned = label.model_copy(update={"faces": (label.faces[0].model_copy(update={"top": None}),)})
    assert [one.number for one in measure(turned, track).units or ()] == [12]
    unread = turned.model_copy(update={"faces": (turned.faces[0].model_copy(update={"reason": "turned"}),)})
    assert (measure(unread, track).units, measure(unread, track).emotion) == ((), None)


def test_it_is_the_same_for_a_record_and_another_for_another() -> None:
    measured = Measurements("happiness", 0.9, (Unit(6, 0.8, 0.3), Unit(12, 0.9, 0.3)), 0.0, 2.0)
    assert describe(measured, "one") == describe(measured, "one")
    assert len({describe(measured, str(number)) for number in range(100)}) > 20


def test_it_takes_less_than_five_milliseconds() -> None:
    seconds: list[float] = []
    for seed, measured in cases(200):
        began = time.process_time()
        describe(measured, seed)
        seconds.append(time.process_time() - began)
    assert sum(seconds) / len(seconds) < 0.005


def test_a_model_that_is_not_sure_says_so_and_an_unreadable_face_has_no_movements() -> None:
    unsure = Measurements("fear", 0.2, (), 0.0, 2.0)
    assert all(
        re.search("not sure|hard to tell|no more than a hint", describe(unsure, str(seed))) for seed in range(20)
    )
    small = Measurements(None, 0.0, (), 0.0, 2.0, reason="small")
    assert describe(small, "1") == "The face is too small for its expression to be read."


def test_units_that_exclude_each_other_follow_each_other_or_the_stronger_stays() -> None:
    early, late = np.linspace(1, 0, 16), np.linspace(0, 1, 16)
    names, limits = ("AU24", "AU25"), (0.6, 0.6)
    label, _ = random_record(random.Random(1))
    seconds = tuple(label.clip.start_time + step / 8 for step in range(16))
    apart = UnitTrack(names, limits, seconds, np.stack([early, late], axis=1).astype(np.float32))
    assert [unit.number for unit in measure(label, apart).units or ()] == [24, 25]
    text = describe(measure(label, apart), "x")
    assert re.search(r"pressed.* At second 1\.\d the lips are parted instead\.", text), text
    both = UnitTrack(names, limits, seconds, np.full((16, 2), (0.7, 0.9), np.float32))
    assert [unit.number for unit in measure(label, both).units or ()] == [25]
    assert frozenset({24, 25}) in OPPOSED


def test_a_blink_is_no_closing_of_the_eyes_and_one_noisy_picture_no_movement() -> None:
    seconds = tuple(step / 8 for step in range(16))
    values = np.zeros((16, 2), np.float32)
    values[5:8, 0] = 0.95
    values[9, 1] = 0.9
    assert list(units_of(UnitTrack(("AU43", "AU12"), (0.4, 0.4), seconds, values))) == []
    values[5:12, 0] = 0.95
    (closed,) = units_of(UnitTrack(("AU43", "AU12"), (0.4, 0.4), seconds, values))
    assert (closed.number, closed.onset is not None, closed.offset is not None) == (43, True, True)


def test_eyes_narrowed_by_a_smile_are_not_called_shut() -> None:
    label, _ = random_record(random.Random(1))
    seconds = tuple(label.clip.start_time + step / 8 for step in range(16))
    values = np.full((16, 2), (0.9, 0.8), np.float32)
    smiling = UnitTrack(("AU43", "AU12"), (0.4, 0.4), seconds, values)
    assert [unit.number for unit in measure(label, smiling).units or ()] == [12]
    values[:, 1] = 0.0
    asleep = UnitTrack(("AU43", "AU12"), (0.4, 0.4), seconds, values)
    assert [unit.number for unit in measure(label, asleep).units or ()] == [43]


def test_eyes_are_not_called_closed_on_weak_grounds_nor_closed_strongly() -> None:
    seconds = tuple(step / 8 for step in range(16))
    for peak, said in ((0.5, ()), (0.9, (43,))):
        values = np.full((16, 1), peak, np.float32)
        found = tuple(unit.number for unit in units_of(UnitTrack(("AU43",), (0.4,), seconds, values)))
        assert found == said, peak
    closed = Measurements("neutral", 0.9, (Unit(43, 0.99, 0.3),), 0.0, 2.0)
    assert not any(re.search("strongly|slightly", describe(closed, str(seed))) for seed in range(50))


def test_a_flicker_at_its_threshold_is_no_movement() -> None:
    seconds = tuple(step / 8 for step in range(16))
    values = np.zeros((16, 1), np.float32)
    values[6:9] = 0.42
    assert not list(units_of(UnitTrack(("AU06",), (0.4,), seconds, values)))
    values[6:13] = 0.42
    assert [unit.number for unit in units_of(UnitTrack(("AU06",), (0.4,), seconds, values))] == [6]


def test_the_course_of_an_expression_is_that_of_what_speaks_for_it() -> None:
    brows = Unit(1, 0.95, 0.3, None, 8.4, 9.4), Unit(2, 0.95, 0.3, None, 8.4, 9.4)
    smile = Unit(12, 0.6, 0.3, 8.6, 9.6, None)
    for seed in range(30):
        text = describe(Measurements("happiness", 0.9, (*brows, smile), 8.0, 10.0), str(seed))
        assert re.search(r"The expression (begins|sets in) at 8\.6 s and (peaks|is strongest) at 9\.6 s\.", text), text
        text = describe(Measurements("sadness", 0.9, (*brows, smile), 8.0, 10.0, seen=0.5), str(seed))
        assert "9.4" not in text or "The expression" in text
    lasting = Measurements("happiness", 0.9, (Unit(6, 0.9, 0.3, None, 1.0, None),), 0.0, 2.0, seen=0.5)
    assert "lasts as long as the face is seen" in describe(lasting, "1")
    other = Measurements("sadness", 0.9, (smile, Unit(7, 0.95, 0.3, None, 8.1, 8.9)), 8.0, 10.0)
    assert "The strongest movement " in describe(other, "1")


def test_what_is_not_there_at_the_same_time_is_said_apart() -> None:
    eyes, brows = Unit(7, 0.9, 0.3, None, 5.2, 5.9), (Unit(1, 0.6, 0.3, 6.1, 6.5), Unit(2, 0.6, 0.3, 6.2, 6.6))
    for seed in range(20):
        text = describe(Measurements("sadness", 0.8, (*brows, eyes), 5.0, 7.0), str(seed))
        assert re.search(r"At 6\.5 s the (eye)?brows are (raised|lifted)\.", text), text
