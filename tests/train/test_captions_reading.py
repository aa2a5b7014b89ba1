"""The reader understands FACS names, verb forms, everyday words, lists and negations; checks refuse what it finds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfer.captions.checks import faults
from streamfer.captions.reading import read
from streamfer.captions.vocabulary import ACTION_UNITS
from streamfer_train.captions.grammar import NEUTRAL_CAPTION, rule_caption
from streamfer_train.captions.labels import FaceLabels


@pytest.mark.parametrize("unit", ACTION_UNITS)
def test_names_and_verbs_of_every_unit(unit: int) -> None:
    assert read(ACTION_UNITS[unit].name).units == {unit}
    assert read(f"The person shows the {ACTION_UNITS[unit].name} here.").units == {unit}
    assert read(rule_caption(FaceLabels.of([unit])) or "").units == {unit}


@settings(max_examples=80, deadline=None)
@given(st.frozensets(st.sampled_from(sorted(ACTION_UNITS)), min_size=1))
def test_rule_captions_are_read_back(units: frozenset[int]) -> None:
    assert read(rule_caption(FaceLabels.of(units)) or "").units == units


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("She is smiling broadly.", {12}),
        ("A wide-eyed look: the eyes are opened wide and the jaw hangs open.", {5, 26}),
        ("The eyebrows are raised, both at the inner and outer ends.", {1, 2}),
        ("The inner and outer corners of the eyebrows are lifted.", {1, 2}),
        ("The brows are pulled down and drawn together, and the eyes are narrowed.", {4, 7}),
        ("The furrowed brow and the tightly pressed lips stand out.", {4, 24}),
        ("The upper and lower lips are pressed together.", {24}),
        ("The lip corners turn down while the chin is pushed up against the lower lip.", {15, 17}),
        ("The mouth is wide open and the tongue sticks out.", {27, 19}),
        ("The upper lip is lifted toward the nose, which is wrinkled.", {10, 9}),
        ("The cheeks rise, forming wrinkles at the corners of the eyes.", {6}),
        ("It is a person who wrinkles nose and closes eyes.", {9, 43}),
        ("The person raises inner brow, outer brow and chin.", {1, 2, 17}),
        ("With the eyes shut and the lips slightly parted, the person relaxes.", {43, 25}),
        ("The lips are rolled inward and the neck is strained.", {28, 21}),
        ("There is a grin; the nasolabial folds are pronounced.", {12, 11}),
        (
            "The eyebrows are raised high, creating horizontal lines across the forehead. The upper eyelids are lifted,"
            " exposing more of the eyes, and the jaw has dropped.",
            {1, 2, 5, 26},
        ),
        (
            "The eyebrows are lowered and drawn together, forming vertical creases between them. The eyelids are"
            " tightened, and the lips are tight and thin.",
            {4, 7, 23},
        ),
        (
            "The individual's cheeks are lifted upwards, and the corners of their lips are pulled back and up into a"
            " wide smile, with lips parted to reveal teeth.",
            {6, 12, 25},
        ),
        ("Their nose is crinkled, the upper lip is curled upward, and the chin boss is pushed upward.", {9, 10, 17}),
        (
            "The outer portion of the eyebrows is raised while the brows are pulled down, the nose is wrinkled, the"
            " lips are stretched horizontally and slightly apart.",
            {2, 4, 9, 20, 25},
        ),
        ("There are dimples in the cheeks, and the lip corners are drawn upward.", {12, 14}),
        ("The mouth curves downward at the corners, and the chin is raised.", {15, 17}),
        ("The inner part of the eyebrow lifts and the eyebrows squeeze together.", {1, 4}),
        ("The raised cheeks narrow the eyes.", {6, 7}),
        ("The eyes look ahead and the mouth is closed.", set()),
        ("The lower part of the face is calm.", set()),
        ("", set()),
    ],
)
def test_everyday_sentences(text: str, units: set[int]) -> None:
    assert read(text).units == units


@pytest.mark.parametrize(
    ("text", "units", "denied"),
    [
        ("The lips are not parted.", set(), {25}),
        ("There is no smile and the brows are lowered.", {4}, {12}),
        ("The person frowns without a smile or raised cheeks, and the lips are pressed.", {4, 24}, {12, 6}),
        ("Neither the brows nor the chin is raised.", set(), {1, 2, 17}),
        ("The brows aren't furrowed.", set(), {4}),
        ("The lips are pressed rather than parted.", {24}, {25}),
        ("Not only are the cheeks raised but also the lips are parted.", {6, 25}, set()),
        ("The mouth is closed and the eyes are open.", set(), {25, 26, 27, 43}),
    ],
)
def test_negations(text: str, units: set[int], denied: set[int]) -> None:
    said = read(text)
    assert (set(said.units), set(said.denied)) == (units, denied)


def test_emotions_and_their_negation() -> None:
    said = read("The person looks happy and astonished, not angry. There is no sign of fear.")
    assert said.emotions == ("happiness", "surprise")
    assert said.denied_emotions == ("anger", "fear")
    assert read("The lip corners are depressed.").emotions == ()


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    said = read(text)
    assert said.units <= ACTION_UNITS.keys()
    faults(text, FaceLabels.of([12]))


SMILE = FaceLabels.of([6, 12], "happy")
GOOD = "The cheeks are raised and the lip corners are pulled up, which is consistent with happiness."


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"{GOOD} The nose is wrinkled.", "names unit 9 (nose wrinkler), which is absent"),
        ("The cheeks are raised, consistent with happiness.", "leaves out unit 12 (lip corner puller)"),
        ("The cheeks are raised and the lip corners are pulled up.", "leaves out happiness"),
        (f"{GOOD} The face looks sad.", "speaks of sadness where the label is happiness"),
        (f"{GOOD} The cheeks are not raised.", "affirms and denies unit 6 (cheek raiser)"),
        (f"AU6 and AU12: {GOOD}", 'says "AU6"'),
        (f"Two action units are visible. {GOOD}", 'says "action units"'),
        ("I'm sorry, but I cannot describe people's faces.", "is a refusal"),
        ("As an AI model I see raised cheeks and a smile of happiness.", "is a refusal"),
        ("- raised cheeks\n- smile", "holds markup"),
        ("Happy.", "has 1 words instead of 3-200"),
        (GOOD + " " + GOOD, "repeats itself"),
        ("脸颊 抬起 并且 微笑", "holds characters of no English sentence"),
    ],
)
def test_texts_that_must_not_stand(text: str, fault: str) -> None:
    assert fault in faults(text, SMILE)


def test_texts_that_may_stand() -> None:
    assert faults(GOOD, SMILE) == ()
    assert faults("The cheeks are raised and the mouth corners rise.", SMILE, emotion_allowed=False) == ()
    assert faults(NEUTRAL_CAPTION, FaceLabels.of([])) == ()
    # A dropped jaw parts the lips: saying so, or leaving it out, is no fault.
    assert faults("The jaw is dropped and the lips are parted.", FaceLabels.of([26])) == ()
    assert faults("The jaw is dropped wide.", FaceLabels.of([25, 26])) == ()


def test_emotions_are_refused_where_only_actions_are_asked_for() -> None:
    assert "speaks of happiness, which is not asked for" in faults(GOOD, FaceLabels.of([6, 12]), emotion_allowed=False)
    assert "speaks of happiness, which no label gives" in faults(GOOD, FaceLabels.of([6, 12]))
