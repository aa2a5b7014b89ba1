# ruff: noqa: E501 - one question a line
"""Sixty questions about one face, each with its right answer or refusal; the face is made so that every answer is known.

From 0 to 10 s, eight pictures a second: smiles from 1 to 3 s (strongest at 2), brows lowered from 5 to 6 s, lips parted
from 2 to 4 s, blinks at 7.5 s, eyes shut from 8 to 9.5 s; happiness to 4 s, neutral to 10 s. Two people, at most two at once.
"""

from __future__ import annotations

import re

import pytest

from streamfer.captions.answers import answer
from streamfer.captions.questions import understand
from streamfer.captions.timeline import Timeline

UNITS = {1: "AU01", 2: "AU02", 4: "AU04", 6: "AU06", 9: "AU09", 12: "AU12", 15: "AU15", 25: "AU25", 43: "AU43"}
SEEN = "can't see that from a face"

#: Question, and what the answer must match.
TABLE = [
    # yes or no about action units
    ("Is the person smiling?", r"^Yes: the lip corners are pulled up from 1\.0 to 3\.0 s"),
    ("Does she smile?", r"^Yes: the lip corners are pulled up from 1\.0"),
    ("Are the lips parted?", r"^Yes: the lips are parted from 2\.0 to 4\.0 s"),
    ("Is the mouth open?", r"^Yes: the lips are parted"),
    ("Does he frown?", r"^Yes: the eyebrows are lowered from 5\.0 to 6\.0 s"),
    ("Are the eyebrows raised?", r"^No: .*not raised"),
    ("Is the nose wrinkled?", r"^No: the nose is not wrinkled in what is seen \(0\.0 to 10\.0 s\)"),
    ("Does the person close the eyes?", r"^Yes: the eyes are closed from 8\.0 to 9\.5 s"),
    ("Is AU12 present?", r"^Yes: the lip corners are pulled up"),
    ("Can you see action unit 9?", r"^No: the nose is not wrinkled"),
    ("Does she ever pull down the corners of the mouth?", r"^No: the lip corners are not pulled down"),
    ("Is the tongue out?", r"^I can't tell: the model does not read whether the tongue is visible"),
    # at a moment
    ("Is she smiling at 2 seconds?", r"^Yes: the lip corners are pulled up"),
    ("Is she smiling at 6 s?", r"^No: the lip corners are not pulled up"),
    ("Are the lips parted between 5 and 7 s?", r"^No: the lips are not parted"),
    ("Does he smile at the end?", r"^No: the lip corners are not pulled up"),
    ("Is he smiling in the first 2 seconds?", r"^Yes: the lip corners are pulled up"),
    # expressions
    ("Is he happy?", r"^Yes: the expression reads as happiness from 0\.0 to 4\.0 s"),
    ("Does the person look sad?", r"^No: the expression does not read as sadness"),
    ("Is she surprised?", r"^No: the expression does not read as surprise"),
    ("Is the expression neutral?", r"^Yes: the expression reads as neutral from 4\.0 to 10\.0 s"),
    ("Is he nervous?", r"^I can't tell: anxiety is none of the expressions"),
    ("What is the expression?", r"^The expression reads as neutral from 4\.0 to 10\.0 s; happiness from 0\.0 to 4\.0 s"),
    ("Which emotion does the face show?", r"neutral .*; happiness"),
    ("How does she look?", r"^The expression reads as"),
    ("How sure are you that he is happy?", r"^At best 90%, for happiness"),
    # negations
    ("Isn't she smiling?", r"^Yes: the lip corners are pulled up"),
    ("Is she not smiling?", r"^No: the lip corners are pulled up"),
    ("Doesn't he wrinkle the nose?", r"^No: the nose is not wrinkled"),
    ("Does he never wrinkle the nose?", r"^Yes: the nose is not wrinkled"),
    ("Is he not angry?", r"^Yes: the expression does not read as anger"),
    # either-or
    ("Is he happy or sad?", r"^The expression reads as happiness"),
    ("Are the lips parted or is the nose wrinkled?", r"^The lips are parted from 2\.0 to 4\.0 s\.$"),
    ("Does she smile or frown?", r"^Both: the lip corners are pulled up .* and the eyebrows are lowered"),
    ("Is she angry or afraid?", r"^Neither: .*anger and .*fear"),
    # course
    ("Does she smile before she frowns?", r"^Yes: the lip corners are pulled up .*, and the eyebrows are lowered"),
    ("Does she frown before she smiles?", r"^No: the eyebrows are lowered"),
    ("Does he smile after he frowns?", r"^No: the eyebrows are lowered"),
    ("Does she smile before she wrinkles her nose?", r"^No: the nose is not wrinkled"),
    ("What comes first, the smile or the frown?", r"^The lip corners are pulled .* and later the eyebrows"),
    ("Does the expression change?", r"^Yes: the expression reads as happiness .* then neutral"),
    # when, how long, how often, how strongly
    ("When does she smile?", r"^The lip corners are pulled up from 1\.0 to 3\.0 s\.$"),
    ("When is the smile strongest?", r"^The lip corners are pulled up most at 2\.0 s"),
    ("When does he start to smile?", r"^The lip corners are pulled up from 1\.0 s on"),
    ("When does the smile end?", r"^The lip corners are pulled up until 3\.0 s"),
    ("When does she wrinkle her nose?", r"^Never: the nose is not wrinkled"),
    ("When is she happy?", r"^The expression reads as happiness from 0\.0 to 4\.0 s"),
    ("How long are the lips parted?", r"for 2\.0 s in all"),
    ("How often does he blink?", r"^Once: the eyes blink at 7\.5 s"),
    ("How strongly does she smile?", r"^Strongly: the lip corners are pulled up most at 2\.0 s"),
    ("How much is the nose wrinkled?", r"^Not at all"),
    # which movements
    ("What do the brows do?", r"^The eyebrows are lowered from 5\.0 to 6\.0 s\.$"),
    ("Which action units are shown?", r"eyebrows are lowered.*lip corners are pulled up.*lips are parted"),
    # people
    ("How many people are there?", r"^Two people can be seen\.$"),
    ("Is there more than one person?", r"^Yes: two people"),
    ("Is she alone?", r"^No: two people"),
    # several faces
    ("Is anybody smiling?", r"^Yes: one of two faces; track 1: the lip corners are pulled up from 1\.0"),
    ("Is everyone neutral?", r"^Yes: two of two faces; track 1: .* track 2: the expression reads as neutral"),
    ("Are all of them happy?", r"^No: one of two faces; track 1: the expression reads as happiness"),
    ("Is nobody smiling?", r"^No: one of two faces"),
    ("Is anyone surprised?", r"^No: none of two faces\.$"),
    ("How many people are happy?", r"^One of two faces; track 1"),
    # negations, alternatives and comparisons of other kinds than yes or no
    ("When is she not smiling?", r"^The lip corners are not pulled up from 0\.0 to 1\.0 s and from 3\.0 to 10\.0 s\.$"),
    ("How long is he neither happy nor neutral?", r"^Never: the expression reads as happiness or the expression reads as neutral"),
    ("When is she happy or neutral?", r"happiness or .* neutral from 0\.0 to 4\.0 s and from 4\.0 to 10\.0 s"),
    ("Which lasts longer, the smile or the frown?", r"^The lip corners are pulled up longer than the eyebrows are lowered\.$"),
    ("Which is stronger, the frown or the smile?", r"^The (eyebrows|lip corners) are \w+( up)? more strongly than the"),
    ("Is there a time when he smiles and wrinkles his nose?", r"^No: at no time the nose is wrinkled and the lip corners .* together"),
    # by the opposite, by comparison, by number and duration, of one face among several
    ("Are his eyes open?", r"^No: the eyes are closed from 8\.0 to 9\.5 s"),
    ("Are the eyes open at 3 s?", r"^Yes: the eyes are not closed"),
    ("Is the mouth closed at 6 s?", r"^Yes: the lips are not parted"),
    ("When is her mouth closed?", r"^The lips are not parted from 0\.0 to 2\.0 s and from 4\.0 to 10\.0 s\.$"),
    ("Is she more happy than sad?", r"^The expression reads as happiness from 0\.0 to 4\.0 s\.$"),
    ("Does she smile more than she frowns?", r"^The (eyebrows|lip corners) are \w+( up)? more strongly than the"),
    ("How happy is she?", r"^The expression reads as happiness with 90%"),
    ("Does he smile twice?", r"^Once: the lip corners are pulled up"),
    ("Does he smile for more than 1 second?", r"^The lip corners are pulled up for 2\.0 s in all"),
    ("Which face is smiling?", r"^One of two faces; track 1: the lip corners"),
    ("Who smiles?", r"^One of two faces; track 1: the lip corners"),
    ("What happens after the smile?", r"^The eyebrows are lowered from 5\.0 to 6\.0 s; the eyes are closed .*; the lips are parted"),
    ("What does he do before he frowns?", r"^The lip corners are pulled up from 1\.0 to 3\.0 s; the lips are parted from 2\.0 to 4\.0 s\.$"),
    ("What does she do after she wrinkles her nose?", r"^The nose is not wrinkled"),
    ("Is anything moving?", r"eyebrows are lowered.*lip corners are pulled up.*lips are parted"),
    ("What about the eyebrows?", r"^The eyebrows are lowered from 5\.0 to 6\.0 s\.$"),
    ("What do the eyes do?", r"^The eyes are closed from 8\.0 to 9\.5 s\.$"),
    ("Is she smiling or not?", r"^Yes: the lip corners are pulled up"),
    ("Does she always smile?", r"^No: the lip corners are pulled up from 1\.0 to 3\.0 s"),
    ("Is he happy throughout?", r"^No: the expression reads as happiness from 0\.0 to 4\.0 s"),
    ("Is the expression always neutral at the end?", r"^Yes: the expression reads as neutral throughout"),
    ("How many blinks?", r"^Once: the eyes blink"),
    ("Does nobody frown?", r"^No: one of two faces"),
    ("What is the first expression?", r"^The expression reads as happiness from 0\.0 to 4\.0 s\.$"),
    ("What is the last expression?", r"^The expression reads as neutral from 4\.0 to 10\.0 s\.$"),
    ("Summarise the video.", r"eyebrows are lowered.*lips are parted"),
    ("Any smile?", r"^Yes: the lip corners are pulled up"),
    # said politely, or as a demand
    ("Would you say that he smiles?", r"^Yes: the lip corners are pulled up"),
    ("Do you think she is not smiling?", r"^No: the lip corners are pulled up"),
    ("Could you please tell me when he frowns?", r"^The eyebrows are lowered from 5\.0 to 6\.0 s"),
    ("Show me the moment of the strongest smile.", r"^The lip corners are pulled up most at 2\.0 s"),
    ("Does the woman part her lips?", r"^Yes: the lips are parted"),
    ("Does her mood get better?", r"^The expression reads as neutral .*; happiness"),
    # what no face shows, and other languages
    ("Do you think he is lying?", SEEN),
    ("How many men are there?", SEEN),
    ("Is he lying?", SEEN),
    ("What is she thinking?", SEEN),
    ("Is it a man or a woman?", SEEN),
    ("How old is she?", SEEN),
    ("Who is this?", SEEN),
    ("What is he wearing?", SEEN),
    ("Why is she smiling?", f"{SEEN}.*Why a face moves is not in its movements"),
    ("Is the smile genuine?", SEEN),
    ("Is the smile real?", SEEN),
    ("Is her smile forced?", SEEN),
    ("Is the smile posed?", SEEN),
    ("Is the left brow raised?", "one half of the face"),
    ("Is only one corner of the mouth pulled up?", "one half of the face"),
    ("Is she ill?", SEEN),
    ("What is the capital of France?", SEEN),
    ("Lächelt die Person?", "read English only"),
    ("Est-ce que la personne sourit ?", "read English only"),
    ("¿Está feliz?", "read English only"),
]  # fmt: skip


def ramp(moment: float, start: float, end: float) -> float:
    """An intensity that is there from ``start`` to ``end`` and strongest in the middle."""
    if not start <= moment <= end:
        return 0.0
    middle = (start + end) / 2
    return 0.95 - 0.2 * abs(moment - middle) / max(1e-6, middle - start)


def timeline() -> Timeline:
    """What is described above."""
    made = Timeline(classes=("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"), most=2)
    made.units = {number: (name, 0.4) for number, name in UNITS.items()}
    face, other = made.face(1), made.face(2)
    other.seen, other.labels = [1.0], [(1.0, 1.0, "neutral", 0.5)]
    for step in range(81):
        moment = step / 8
        values = dict.fromkeys(UNITS.values(), 0.05)
        # Smoothing by neighbours keeps a stretch's edges where half of it is there.
        values["AU12"] = ramp(moment, 1, 3)
        values["AU25"] = ramp(moment, 2, 4)
        values["AU04"] = ramp(moment, 5, 6)
        values["AU43"] = ramp(moment, 8, 9.5) or (0.9 if moment == 7.5 else 0.0)
        face.seen.append(moment)
        face.pictures.append((moment, values))
    for start in range(9):
        label = "happiness" if start + 2 <= 4 else "neutral"
        if start == 3:
            continue
        face.labels.append((float(start), float(start + 2), label, 0.9 if label == "happiness" else 0.7))
    return made


TIMES = timeline()


def test_the_table_has_its_sixty_questions() -> None:
    assert len({question for question, _ in TABLE}) >= 60


@pytest.mark.parametrize(("question", "expected"), TABLE, ids=[question for question, _ in TABLE])
def test_a_question_gets_its_answer(question: str, expected: str) -> None:
    said = answer(understand(question), TIMES, TIMES.faces[1])
    assert re.search(expected, said.text, re.IGNORECASE), said.text


def test_the_most_people_at_one_time_are_told_from_all() -> None:
    followed = timeline()
    followed.most = 1
    said = answer(understand("How many people are there?"), followed, followed.faces[1])
    assert said.text == "Two people can be seen, at most one at once."


def test_yes_and_no_are_told_apart_from_words() -> None:
    found = [answer(understand(question), TIMES, TIMES.faces[1]).yes for question, _ in TABLE[:7]]
    assert found == [True, True, True, True, True, False, False]
    assert answer(understand("Is he lying?"), TIMES, TIMES.faces[1]).yes is None
    assert answer(understand("When does she smile?"), TIMES, TIMES.faces[1]).yes is None
