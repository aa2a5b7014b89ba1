"""Questions as people ask them: everyday words and FACS names beside the grammar's, and questions about the emotion.

All wordings are our own.
"""

from __future__ import annotations

import random

from streamfer_train.captions.feeling import emotion_sentence
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.questions import Question
from streamfer_train.captions.vocabulary import ACTION_UNITS, EMOTION_WORDS

#: Whole questions for units that have a name outside FACS.
_EVERYDAY: dict[int, tuple[str, ...]] = {
    1: ("Are the inner brows up?", "Is the inner brow raised?"),
    2: ("Are the outer brows up?", "Is the outer brow raised?"),
    4: ("Is the person frowning?", "Is there a frown?", "Are the eyebrows pulled together?"),
    5: ("Are the eyes wide open?", "Are the eyes widened?"),
    6: ("Are the cheeks raised?", "Do the cheeks push up under the eyes?"),
    7: ("Is the person squinting?", "Are the eyes narrowed?"),
    9: ("Does the person wrinkle the nose?", "Is the nose wrinkled?"),
    12: ("Is the person smiling?", "Is there a smile?", "Does the person smile?", "Is he smiling?", "Is she smiling?"),
    14: ("Are there dimples?",),
    15: ("Do the mouth corners hang?", "Are the corners of the mouth down?"),
    17: ("Is the chin pushed up?",),
    18: ("Are the lips pursed?", "Is the mouth puckered?"),
    24: ("Are the lips pressed together?",),
    25: ("Is the mouth open?", "Are the lips open?", "Is the mouth open a little?"),
    26: ("Is the jaw open?", "Has the jaw dropped?"),
    43: ("Are the eyes closed?", "Does the person have the eyes closed?", "Is the person blinking?"),
}
_BY_NAME = (
    "Is the {name} present?", "Is the {name} active?", "Does the face show the {name}?", "Is AU{number} present?",
    "Is AU {number} active?", "Is action unit {number} present?", "Can AU{number:02d} be seen?",
)  # fmt: skip
_OPEN = (
    "Which emotion does the face show?", "What does this person feel?", "What is the emotion?",
    "Which emotion is this expression consistent with?", "How does the person feel?", "What mood is the person in?",
)  # fmt: skip
_CLOSED = (
    "Does the person look {word}?", "Is the person {word}?", "Is this {noun}?", "Does the face show {noun}?",
    "Is the expression consistent with {noun}?", "Does this look like {noun}?",
)  # fmt: skip
_NEUTRAL = ("Is the face neutral?", "Is the expression neutral?", "Does the person look neutral?")


def reworded(question: Question, draw: random.Random) -> Question:
    """Return a question about a unit in everyday words or by its name, now and then as it was."""
    if question.unit is None or draw.random() < 0.5:
        return question
    everyday = _EVERYDAY.get(question.unit, ())
    if everyday and draw.random() < 0.6:
        text = draw.choice(everyday)
    else:
        text = draw.choice(_BY_NAME).format(name=ACTION_UNITS[question.unit].name, number=question.unit)
    return Question("unit", text, question.answer, unit=question.unit)


def emotion_question(labels: FaceLabels, emotions: tuple[str, ...], draw: random.Random) -> Question:
    """Ask openly for the emotion of a face that has one, or whether it is a certain one: yes as often as no."""
    if draw.random() < 0.3:
        # Of the labels only the emotion: what nobody asked for is no reason.
        return Question("global", draw.choice(_OPEN), emotion_sentence(FaceLabels(None, labels.emotions), draw))
    yes = draw.random() < 0.5
    asked = labels.emotions[0] if yes else draw.choice([one for one in emotions if one not in labels.emotions])
    if asked == "neutral":
        text = draw.choice(_NEUTRAL)
    else:
        noun, word = EMOTION_WORDS[asked][:2]
        # Surprise, disgust and fear have their adjectives in this place, too.
        text = draw.choice(_CLOSED).format(noun=noun, word=word)
    return Question("unit", text, "yes" if yes else "no", emotion=asked)
