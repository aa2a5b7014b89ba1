"""The words of facial action: 27 action units with their names, verbs and regions, and the emotions.

Sources: the Facial Action Coding System (Ekman, Friesen and Hager 2002) for names; Exp-BLIP (BMVC 2023) for which 27
units are described and for the verb forms; Du, Tao and Martinez (PNAS 111, 2014) and EMFACS for the prototypes,
which are hypotheses about configurations of a face and no proof of a feeling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActionUnit:
    """One action unit: its FACS number and name, its verb phrase in the imperative, and where it shows."""

    number: int
    name: str
    verb: str
    region: str

    @property
    def third_person(self) -> str:
        """The verb phrase of a sentence about one person: ``raise chin`` becomes ``raises chin``."""
        verb, _, rest = self.verb.partition(" ")
        return f"{inflect(verb)} {rest}"


#: Regions in the order in which a face is read.
REGIONS = ("brows", "eyes", "cheeks", "nose", "mouth", "chin", "jaw", "neck")

_ROWS = (
    (1, "inner brow raiser", "raise inner brow", "brows"),
    (2, "outer brow raiser", "raise outer brow", "brows"),
    (4, "brow lowerer", "lower brow", "brows"),
    (5, "upper lid raiser", "raise upper lid", "eyes"),
    (7, "lid tightener", "tighten lids", "eyes"),
    (43, "eyes closed", "close eyes", "eyes"),
    (6, "cheek raiser", "raise cheek", "cheeks"),
    (9, "nose wrinkler", "wrinkle nose", "nose"),
    (11, "nasolabial deepener", "deepen nasolabial", "nose"),
    (10, "upper lip raiser", "raise upper lip", "mouth"),
    (12, "lip corner puller", "pull lip corner", "mouth"),
    (14, "dimpler", "tighten lip corner", "mouth"),
    (15, "lip corner depressor", "depress lip corner", "mouth"),
    (16, "lower lip depressor", "depress lower lip", "mouth"),
    (20, "lip stretcher", "stretch lips", "mouth"),
    (18, "lip pucker", "pucker lips", "mouth"),
    (22, "lip funneler", "show lip funneler", "mouth"),
    (23, "lip tightener", "tighten lips", "mouth"),
    (24, "lip pressor", "press lips", "mouth"),
    (28, "lip suck", "suck lips", "mouth"),
    (8, "lips toward each other", "pull lips toward each other", "mouth"),
    (25, "lips part", "separate lips", "mouth"),
    (19, "tongue show", "stick tongue out", "mouth"),
    (17, "chin raiser", "raise chin", "chin"),
    (26, "jaw drop", "drop jaw", "jaw"),
    (27, "mouth stretch", "stretch mouth", "jaw"),
    (21, "neck tightener", "tighten neck", "neck"),
)

#: The 27 units by number, in reading order: brows, eyes, cheeks, nose, mouth, chin, jaw, neck.
ACTION_UNITS: dict[int, ActionUnit] = {row[0]: ActionUnit(*row) for row in _ROWS}

#: A unit that always comes with another shows without being named: a dropped jaw parts the lips.
IMPLIES: dict[int, frozenset[int]] = {26: frozenset({25}), 27: frozenset({25, 26})}

#: Pairs that one face at one moment hardly shows together; a text that names both contradicts itself.
OPPOSED: frozenset[frozenset[int]] = frozenset(
    frozenset(pair)
    for pair in ((5, 43), (24, 25), (24, 26), (24, 27), (28, 25), (28, 26), (28, 27), (18, 20), (20, 22), (26, 28))
)

#: Units that speak for an emotion, those that it can hardly do without first.
PROTOTYPES: dict[str, tuple[int, ...]] = {
    "happiness": (12, 6, 25),
    "sadness": (15, 1, 4, 17, 11),
    "surprise": (1, 2, 5, 26, 27, 25),
    "fear": (20, 1, 4, 2, 5, 7, 25, 26),
    "anger": (4, 7, 24, 23, 5, 17, 10),
    "disgust": (9, 10, 17, 16, 15, 4, 24),
    "contempt": (14, 12),
    "anxiety": (1, 4, 7, 24, 28),
    "helplessness": (1, 4, 15),
    "disappointment": (15, 17, 25),
    "neutral": (),
}

#: Words by which texts speak of an emotion; the first is the noun that our own sentences use.
EMOTION_WORDS: dict[str, tuple[str, ...]] = {
    "happiness": ("happiness", "happy", "happily", "joy", "joyful", "joyous", "joyfully", "cheerful", "cheerfulness",
                  "delight", "delighted", "amusement", "amused", "pleased", "elated", "elation", "enjoyment"),
    "sadness": ("sadness", "sad", "sadly", "sorrow", "sorrowful", "unhappy", "unhappiness", "grief", "gloomy",
                "dejected", "melancholy", "despondent"),
    "surprise": ("surprise", "surprised", "surprisingly", "astonished", "astonishment", "amazed", "amazement",
                 "startled", "shock", "shocked"),
    "fear": ("fear", "fearful", "fearfully", "afraid", "scared", "frightened", "fright", "terrified", "terror"),
    "anger": ("anger", "angry", "angrily", "furious", "fury", "rage", "enraged", "irritated", "irritation", "mad"),
    "disgust": ("disgust", "disgusted", "disgustedly", "revulsion", "repulsed", "revolted", "aversion"),
    "contempt": ("contempt", "contemptuous", "contemptuously", "scorn", "scornful", "disdain", "disdainful"),
    "anxiety": ("anxiety", "anxious", "anxiously", "nervous", "nervousness", "worry", "worried", "uneasy"),
    "helplessness": ("helplessness", "helpless", "helplessly"),
    "disappointment": ("disappointment", "disappointed", "disappointedly"),
    "neutral": ("neutral", "neutrality", "expressionless", "emotionless", "impassive"),
}  # fmt: skip
_CANONICAL = {word: name for name, words in EMOTION_WORDS.items() for word in words}


def in_order(units: Iterable[int]) -> tuple[int, ...]:
    """Return units in reading order, each once; numbers outside the 27 are left out."""
    chosen = set(units)
    return tuple(number for number in ACTION_UNITS if number in chosen)


def implied(units: Iterable[int]) -> frozenset[int]:
    """Return units together with those that they bring along."""
    chosen = frozenset(units)
    return chosen.union(*(IMPLIES.get(unit, frozenset()) for unit in chosen))


def canonical_emotion(word: str) -> str:
    """Return the noun of an emotion word, or the word itself in lower case where the vocabulary lacks it.

    >>> canonical_emotion("Happy"), canonical_emotion("sleepy")
    ('happiness', 'sleepy')
    """
    word = " ".join(word.lower().split())
    return _CANONICAL.get(word, word)


def inflect(verb: str) -> str:
    """Return the third person singular of a regular verb.

    >>> [inflect(v) for v in ("raise", "press", "stretch", "tighten", "carry")]
    ['raises', 'presses', 'stretches', 'tightens', 'carries']
    """
    if re.search(r"(s|sh|ch|x|z|o)$", verb):
        return verb + "es"
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + "s"


def join(parts: Iterable[str], last: str = "and") -> str:
    """Join with commas, and ``last`` before the last one.

    >>> join(["brows", "lids", "lips"])
    'brows, lids and lips'
    """
    *rest, end = parts
    return f"{', '.join(rest)} {last} {end}" if rest else end
