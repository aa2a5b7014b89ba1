"""Sentences over the emotion, and over the actions that speak for it.

A face shows actions; a feeling is inferred. So the sentences say "consistent with" and the like, and give as reasons
only actions that are present and belong to the emotion's prototype.
"""

from __future__ import annotations

import random

from streamfer.captions.english import sentence
from streamfer.captions.vocabulary import EMOTION_WORDS, PROTOTYPES, Wording, join, wordings
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.sentences import SENTENCES

_WAYS: dict[str, list[str]] = SENTENCES["feeling"]


def emotion_sentence(labels: FaceLabels, draw: random.Random) -> str:
    """Return a sentence over all emotions of ``labels``, with reasons where actions that are present give any."""
    known = [emotion for emotion in labels.emotions if emotion in EMOTION_WORDS and emotion != "neutral"]
    parts = []
    if known:
        parts.append(_inferred(labels, known, draw))
    elif "neutral" in labels.emotions:
        parts.append(draw.choice(_WAYS["neutral"]))
    foreign = [emotion for emotion in labels.emotions if emotion not in EMOTION_WORDS]
    parts += [draw.choice(_WAYS["called"]).format('" and "'.join(foreign))] if foreign else []
    return sentence("; ".join(parts))


def reasons_for(labels: FaceLabels, emotion: str) -> frozenset[int]:
    """Return units that are present and belong to the prototype of ``emotion``."""
    return (labels.action_units or frozenset()) & frozenset(PROTOTYPES.get(emotion, ()))


def _inferred(labels: FaceLabels, emotions: list[str], draw: random.Random) -> str:
    if len(emotions) > 1:
        text = join(_with_reasons(labels, emotions, draw))
        if "{" not in text and any(reasons_for(labels, emotion) for emotion in emotions) and draw.random() < 0.7:
            return f"{draw.choice(('this blends', 'the expression mixes', 'the face combines signs of'))} {text}"
        return draw.choice(_WAYS["plain"]).format(f"a mix of {join(emotions)}")
    (emotion,) = emotions
    rows = _pick(reasons_for(labels, emotion), draw)
    if not rows or draw.random() < 0.25:
        return draw.choice(_WAYS["plain"]).format(emotion)
    plural = len(rows) > 1 or rows[0].plural
    return draw.choice(_WAYS["because"]).format(
        reasons=_named(rows, draw),
        emotion=emotion,
        speak="speak" if plural else "speaks",
        suggest="suggest" if plural else "suggests",
        make="make" if plural else "makes",
        be="are" if plural else "is",
    )


def _with_reasons(labels: FaceLabels, emotions: list[str], draw: random.Random) -> list[str]:
    """``surprise (the lifted brows)`` for each; an action speaks for one emotion only, the first that names it."""
    parts, named = [], frozenset[int]()
    for emotion in emotions:
        rows = _pick(reasons_for(labels, emotion) - named, draw)
        named = named.union(*(row.units for row in rows))
        parts.append(f"{emotion} ({_named(rows, draw)})" if rows else emotion)
    return parts


def _pick(units: frozenset[int], draw: random.Random) -> list[Wording]:
    """One to three rows of the units that speak for an emotion, in reading order."""
    single, _ = wordings(units)
    return sorted(draw.sample(single, min(len(single), draw.randint(1, 3))), key=lambda row: row.order)


def _named(rows: list[Wording], draw: random.Random) -> str:
    return join(f"the {draw.choice(row.adjectives)} {draw.choice(row.short)}" for row in rows)
