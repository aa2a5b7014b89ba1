"""Sentences over a face without any action: said of what is coded and absent, never invented."""

from __future__ import annotations

import random

from streamfer.captions.english import sentence
from streamfer.captions.vocabulary import join
from streamfer_train.captions.sentences import SENTENCES

_WAYS = SENTENCES["resting"]
#: One fixed text for label sets without action units.
NEUTRAL_CAPTION: str = _WAYS["fixed"]


def resting_sentence(draw: random.Random) -> str:
    """Return one sentence over a relaxed face; several thousand are possible."""
    details = [draw.choice(_WAYS[part]) for part in ("brows", "eyes", "mouth") if draw.random() < 0.75]
    whole = draw.choice(_WAYS["whole"])
    if not details:
        text = whole
    elif draw.random() < 0.5:
        text = f"{whole}: {join(details)}"
    else:
        text = f"{join(details)}, and {whole}" if len(details) < 3 else join([*details, whole])
    return sentence(f"{draw.choice(_WAYS['leads'])}{text}")
