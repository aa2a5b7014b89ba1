"""Captions by rule, one fixed sentence a label set: the first of Exp-BLIP's three kinds of text.

Source: Exp-BLIP (BMVC 2023), section 3.1 and its released caption files, whose wording is kept to the letter so that
captions and scores stay comparable.
"""

from __future__ import annotations

from streamfer.captions.vocabulary import ACTION_UNITS, join
from streamfer_train.captions.labels import FaceLabels

#: How the released captions begin; the grammar of :mod:`streamfer_train.captions.grammar` has better English.
OPENING = "It is a people who"


def action_caption(labels: FaceLabels, opening: str = OPENING) -> str | None:
    """Return the sentence over the action units present in ascending order, or None without any.

    >>> action_caption(FaceLabels.of([24, 10, 14, 17]))
    'It is a people who raises upper lip, tightens lip corner, raises chin and presses lips.'
    """
    if not labels.action_units:
        return None
    return f"{opening} {join(ACTION_UNITS[unit].third_person for unit in sorted(labels.action_units))}."


def emotion_caption(labels: FaceLabels) -> str | None:
    """Return the sentence over the emotions, or None without any.

    >>> emotion_caption(FaceLabels.of(None, "happily", "surprised"))
    'The face shows happiness and surprise.'
    """
    return f"The face shows {join(labels.emotions)}." if labels.emotions else None


def rule_caption(labels: FaceLabels) -> str | None:
    """Return both sentences, as far as there are labels for them: what Cat-BLIP is trained on."""
    sentences = [sentence for sentence in (action_caption(labels), emotion_caption(labels)) if sentence]
    return " ".join(sentences) or None
