"""What a language model is asked: to put labels into prose, or two sentences into one text. All in our own words."""

from __future__ import annotations

from streamfer.captions.english import movement
from streamfer.captions.protocol import Message
from streamfer.captions.vocabulary import ACTION_UNITS, in_order
from streamfer.files import table_beside
from streamfer_train.captions.grammar import emotion_caption
from streamfer_train.captions.labels import FaceLabels

#: Raise when wording changes, so that cached answers to the old prompts are not taken for answers to the new ones.
PROMPT_VERSION = 1

_EXAMPLE = FaceLabels.of([1, 6, 15, 24])
_PROMPTS: dict[str, str] = table_beside(__file__)


def rewrite_messages(labels: FaceLabels) -> list[Message]:
    """Ask for a text over the action units of ``labels``, with one worked example."""
    glossary = "\n".join(f"- {unit.name}: {movement(number)}" for number, unit in ACTION_UNITS.items())
    return [
        {"role": "system", "content": _PROMPTS["rewrite"].format(glossary=glossary)},
        {"role": "user", "content": _actions(_EXAMPLE)},
        {"role": "assistant", "content": _PROMPTS["example"]},
        {"role": "user", "content": _actions(labels)},
    ]


def fuse_messages(action: str, emotion: str) -> list[Message]:
    """Ask for one text out of a sentence over actions and one over emotions."""
    return [
        {"role": "system", "content": _PROMPTS["fuse"]},
        {"role": "user", "content": f"Facial actions: {action}\nEmotion: {emotion}"},
    ]


def reword_messages(question: str) -> list[Message]:
    """Ask for a question in other words."""
    return [{"role": "system", "content": _PROMPTS["reword"]}, {"role": "user", "content": question}]


def emotion_statement(labels: FaceLabels) -> str:
    """The sentence over the emotions that goes into a fusion; neutral where there is none."""
    return emotion_caption(labels) or "The face shows no particular emotion."


def _actions(labels: FaceLabels) -> str:
    names = [ACTION_UNITS[unit].name for unit in in_order(labels.action_units or ())]
    return f"Describe a face with these actions: {', '.join(names)}."
