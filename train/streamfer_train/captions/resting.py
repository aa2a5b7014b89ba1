"""Sentences over a face without any action: said of what is coded and absent, never invented."""

from __future__ import annotations

import random

from streamfer.captions.english import sentence
from streamfer.captions.vocabulary import join

#: One fixed text for label sets without action units, in our own words (Exp-BLIP has one such text of its own).
NEUTRAL_CAPTION = (
    "The face is at rest: the forehead is smooth, the eyebrows lie in their natural place, the eyes look straight "
    "ahead, and the mouth is relaxed."
)
_WHOLE = (
    "the face is at rest", "the face is relaxed", "the face is still", "no facial action stands out",
    "the muscles of the face are relaxed", "nothing in the face moves", "the features are calm and relaxed",
    "the face holds no particular movement", "the whole face looks relaxed", "the face is quiet",
)  # fmt: skip
_BROWS = (
    "the eyebrows lie in their natural place", "the brows lie level", "the brows are where they naturally are",
    "the forehead is smooth", "the eyebrows stay in place", "the brow area is smooth",
)  # fmt: skip
_EYES = (
    "the eyes look straight ahead",
    "the gaze is calm",
    "the eyes have their usual shape",
    "the eyes look out calmly",
    "the eyes rest in an ordinary look",
)
_MOUTH = (
    "the mouth is relaxed",
    "the lips rest naturally",
    "the mouth keeps its resting shape",
    "the mouth is calm",
    "the lips lie loosely",
    "the mouth is still",
)
_LEADS = ("", "", "Here, ", "In this view, ", "At this moment, ", "As far as one can see, ")


def resting_sentence(draw: random.Random) -> str:
    """Return one sentence over a relaxed face; several thousand are possible."""
    details = [draw.choice(options) for options in (_BROWS, _EYES, _MOUTH) if draw.random() < 0.75]
    whole = draw.choice(_WHOLE)
    if not details:
        text = whole
    elif draw.random() < 0.5:
        text = f"{whole}: {join(details)}"
    else:
        text = f"{join(details)}, and {whole}" if len(details) < 3 else join([*details, whole])
    return sentence(f"{draw.choice(_LEADS)}{text}")
