"""Which emotion a recovered prompt describes.

The authors' checkpoints store no class names, only the token embeddings of each class's description. The
descriptions are recovered by matching embeddings, and named by the words in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from streamfer.errors import CheckpointError

#: The order of DFEW and FERV39k in the authors' annotation files (label 0 first).
SEVEN_CLASSES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
#: MAFW's order in the same files. Other repositories order MAFW differently, so names are carried, not indices.
ELEVEN_CLASSES = (*SEVEN_CLASSES, "contempt", "anxiety", "helplessness", "disappointment")

_ALIASES = {
    "happiness": ("happiness", "happy", "joy"),
    "sadness": ("sadness", "sad"),
    "neutral": ("neutral", "neutrality"),
    "anger": ("anger", "angry"),
    "surprise": ("surprise", "surprised"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "afraid", "fearful"),
    "contempt": ("contempt", "contemptuous"),
    "anxiety": ("anxiety", "anxious"),
    "helplessness": ("helplessness", "helpless"),
    "disappointment": ("disappointment", "disappointed"),
}
#: Word stems that tell the descriptions apart; each hit counts once, the class with most hits is the name.
_CUES = {
    "happiness": ("smil", "raised cheek", "eye wrinkle", "wrinkles around the eye", "arched"),
    "sadness": ("tear", "upper eyelid", "upper lid", "droop", "wrinkled forehead", "downward"),
    "neutral": ("relax", "straight", "smooth", "unremarkable"),
    "anger": ("furrow", "tight lip", "flare", "narrow"),
    "surprise": ("widen", "wide eye", "open mouth", "raised eyebrow", "frozen"),
    "disgust": ("wrinkled nose", "lowered", "tightened mouth", "tight mouth", "narrow"),
    "fear": ("parted", "retract", "furrow", "raised eyebrow"),
    "contempt": ("one side", "asymmetr", "one eyebrow", "raised chin", "narrow"),
    "anxiety": ("tense", "pressed", "dilat", "tension"),
    "helplessness": ("gaze", "lack of", "no expression", "droop", "blank"),
    "disappointment": ("sigh", "lowered", "narrow", "turned"),
}


def _by_word(text: str) -> list[str]:
    words = set(re.findall(r"[a-z]+", text.lower()))
    return [name for name, aliases in _ALIASES.items() if words & set(aliases)]


def _best_assignment(descriptions: Sequence[str], names: Sequence[str]) -> list[str]:
    """Assign names to descriptions so that the number of cue words found is largest."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    scores = np.array([[sum(cue in text.lower() for cue in _CUES[name]) for name in names] for text in descriptions])
    rows, columns = linear_sum_assignment(scores, maximize=True)
    if min(scores[rows, columns]) == 0:
        return []
    return [names[column] for column in columns]


def name_classes(descriptions: Sequence[str], where: str) -> tuple[str, ...]:
    """Name the classes that the prompts' texts describe.

    A text that contains exactly one emotion word names itself. Otherwise the seven or eleven emotions of the
    authors' datasets are assigned by the cue words of their descriptions, one to each text.

    Raises:
        CheckpointError: the texts cannot be told apart; the names have to be given.
    """
    named = [_by_word(text) for text in descriptions]
    if all(len(found) == 1 for found in named) and len({found[0] for found in named}) == len(named):
        return tuple(found[0] for found in named)
    order = {7: SEVEN_CLASSES, 11: ELEVEN_CLASSES}.get(len(descriptions))
    assigned = _best_assignment(descriptions, order) if order else []
    if not assigned:
        shown = "; ".join(repr(text) for text in descriptions[:3])
        raise CheckpointError(
            f"{where}: cannot tell which emotions its {len(descriptions)} prompts describe ({shown}...); "
            "give their names in order with --classes"
        )
    return tuple(assigned)
