"""Checks that a text has to pass before it is used as a caption; a sentence of the grammar replaces what fails."""

from __future__ import annotations

import re

from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.vocabulary import ACTION_UNITS, EMOTION_WORDS, implied
from streamfer_train.metrics.agreement import contradictions, repeats
from streamfer_train.metrics.mentions import read

#: Bounds of a caption in words; language models that lose the thread go on for pages, or stop at a word.
SHORTEST, LONGEST = 3, 200
_CODES = re.compile(r"\baus?\b|\bau\s?\d+\b|\baction units?\b|\bfacs\b", re.IGNORECASE)
_REFUSALS = re.compile(
    r"\b(?:i'?m sorry|i am sorry|i apologi[sz]e|as an ai|language model|i cannot|i can'?t|i'm unable|i am unable"
    r"|cannot (?:assist|help|comply)|not able to (?:assist|help|describe|comply))\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"```|</?\w+>|https?://|[{}\[\]]|^\s*(?:[-*#]|\d+\.)\s", re.MULTILINE)
_FOREIGN = re.compile(r"[^\x20-\x7e‘’“”–—…éï]")


def faults(text: str, labels: FaceLabels, *, emotion_allowed: bool = True, complete: bool = True) -> tuple[str, ...]:
    """Return why ``text`` must not stand for ``labels``; empty if it may.

    Refused are refusals and nonsense (markup, foreign script, length, repetition), codes ("AU"), units that are
    absent or not coded, contradictions with the text itself or the label, emotions beside the label (all emotions
    where ``emotion_allowed`` is false), and with ``complete`` units or emotions of the label that are left out.
    """
    shape = list(_shape_faults(text))
    return tuple(shape or _content_faults(text, labels, emotion_allowed=emotion_allowed, complete=complete))


def _shape_faults(text: str) -> list[str]:
    words = len(text.split())
    found = []
    if not SHORTEST <= words <= LONGEST:
        found.append(f"has {words} words instead of {SHORTEST}-{LONGEST}")
    if _REFUSALS.search(text.replace("’", "'")):
        found.append("is a refusal")
    if _MARKUP.search(text):
        found.append("holds markup")
    if _FOREIGN.search(text.replace("\n", " ")):
        found.append("holds characters of no English sentence")
    if code := _CODES.search(text):
        found.append(f'says "{code.group()}"')
    if repeats(text):
        found.append("repeats itself")
    return found


def _content_faults(text: str, labels: FaceLabels, *, emotion_allowed: bool, complete: bool) -> list[str]:
    said = read(text)
    true = labels.action_units or frozenset()
    found = [f"names unit {unit} ({ACTION_UNITS[unit].name}), which is absent"
             for unit in sorted(said.units - implied(true))]  # fmt: skip
    found += contradictions(said, labels)
    if not emotion_allowed:
        found += [f"speaks of {emotion}, which is not asked for" for emotion in said.emotions if emotion != "neutral"]
    elif not labels.emotions:
        found += [f"speaks of {emotion}, which no label gives" for emotion in said.emotions if emotion != "neutral"]
    if complete:
        # What another unit brings along is said with it.
        found += [f"leaves out unit {unit} ({ACTION_UNITS[unit].name})"
                  for unit in sorted(true - implied(said.units))]  # fmt: skip
        found += [f"leaves out {emotion}" for emotion in labels.emotions
                  if emotion_allowed and not _named(emotion, said.emotions, text)]  # fmt: skip
    return list(dict.fromkeys(found))


def _named(emotion: str, said: tuple[str, ...], text: str) -> bool:
    if emotion == "neutral":
        return True  # silence is neutral enough
    return emotion in said if emotion in EMOTION_WORDS else emotion in text.lower()
