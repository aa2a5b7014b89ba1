"""What a language model is asked: to put labels into prose, or two sentences into one text. All in our own words."""

from __future__ import annotations

from streamfer.captions.english import movement
from streamfer.captions.protocol import Message
from streamfer.captions.vocabulary import ACTION_UNITS, in_order
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.rules import emotion_caption

#: Raise when wording changes, so that cached answers to the old prompts are not taken for answers to the new ones.
PROMPT_VERSION = 1

_EXAMPLE = FaceLabels.of([1, 6, 15, 24])
_EXAMPLE_TEXT = (
    "The inner ends of the eyebrows are lifted, which slants them upward toward the middle of the forehead. "
    "The cheeks are raised. Below, the corners of the mouth are pulled down and the lips are pressed together."
)
_REWRITE = """You write captions of faces for a research data set. You get a list of facial actions and describe a \
face that shows exactly these.

The actions and what they look like:
{glossary}

Rules:
- Mention every action of the list, and no other movement of the face.
- Describe only what is visible: no emotion, no mood, no guess at a reason.
- Never write the abbreviation for facial actions, their numbers, or the words "action unit".
- One to five plain English sentences, read from the eyebrows down to the chin; no list, no heading, no preface."""
_FUSE = """You join two statements about one face into one caption.

Rules:
- Keep every facial action of the first statement and every emotion of the second; add none of either.
- Say how each emotion can be read from the actions, where an action supports it.
- Never write the abbreviation for facial actions, their numbers, or the words "action unit".
- Two to five plain English sentences; no list, no heading, no preface."""

_REWORD = """You put a question about a face into other words.

Rules:
- It must ask for the same: the same part of the face, the same movement, nothing more and nothing less.
- Keep the name of the part of the face as it is.
- One short plain English question; no preface."""


def rewrite_messages(labels: FaceLabels) -> list[Message]:
    """Ask for a text over the action units of ``labels``, with one worked example."""
    return [
        {"role": "system", "content": _REWRITE.format(glossary=_glossary())},
        {"role": "user", "content": _actions(_EXAMPLE)},
        {"role": "assistant", "content": _EXAMPLE_TEXT},
        {"role": "user", "content": _actions(labels)},
    ]


def fuse_messages(action: str, emotion: str) -> list[Message]:
    """Ask for one text out of a sentence over actions and one over emotions."""
    return [
        {"role": "system", "content": _FUSE},
        {"role": "user", "content": f"Facial actions: {action}\nEmotion: {emotion}"},
    ]


def reword_messages(question: str) -> list[Message]:
    """Ask for a question in other words."""
    return [{"role": "system", "content": _REWORD}, {"role": "user", "content": question}]


def emotion_statement(labels: FaceLabels) -> str:
    """The sentence over the emotions that goes into a fusion; neutral where there is none."""
    return emotion_caption(labels) or "The face shows no particular emotion."


def _actions(labels: FaceLabels) -> str:
    names = [ACTION_UNITS[unit].name for unit in in_order(labels.action_units or ())]
    return f"Describe a face with these actions: {', '.join(names)}."


def _glossary() -> str:
    return "\n".join(f"- {unit.name}: {movement(number)}" for number, unit in ACTION_UNITS.items())
