"""Class names of the datasets, and what their labels mean: a label becomes a name once, at the list it is read from.

Repositories number MAFW's classes differently, and a silent renumbering is the classic error between them. Numbers
therefore never leave this module without the order they belong to.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

from streamfer.errors import ConfigError
from streamfer.models.vocabulary import ELEVEN_CLASSES, SEVEN_CLASSES, canonical

DatasetName = Literal["dfew", "ferv39k", "mafw", "csv"]
LabelScheme = Literal["authors", "dfew", "mafw", "names"]

#: The classes of each dataset in the order of the authors' lists, which is the order of their checkpoints' outputs.
VOCABULARIES: dict[DatasetName, tuple[str, ...]] = {
    "dfew": SEVEN_CLASSES,
    "ferv39k": SEVEN_CLASSES,
    "mafw": ELEVEN_CLASSES,
    "csv": SEVEN_CLASSES,
}

#: DFEW's annotation files number the same order from 1; the authors subtract one.
DFEW_LABELS: dict[int, str] = dict(enumerate(SEVEN_CLASSES, start=1))
#: MAFW's own order, in which MAE-DFER (preprocess/mafw.py) numbers its lists from 0; the authors' order differs.
MAFW_OWN_ORDER = (
    "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety", "helplessness",
    "disappointment",
)  # fmt: skip

#: What a numbered label means in each scheme; ``names`` has no numbers.
SCHEMES: dict[LabelScheme, dict[int, str]] = {
    "authors": dict(enumerate(ELEVEN_CLASSES)),
    "dfew": DFEW_LABELS,
    "mafw": dict(enumerate(MAFW_OWN_ORDER)),
    "names": {},
}


def class_of(label: str, scheme: LabelScheme, classes: Sequence[str]) -> str:
    """Return the class that one label of a list means, spelled as in ``classes``.

    Raises:
        ConfigError: the label is no number of the scheme, or names none of the classes. The message says what is
            known; the caller adds where the label stands.
    """
    spelled = {canonical(name): name for name in classes} | {name.lower(): name for name in classes}
    if scheme == "names":
        for name in (label.strip().lower(), canonical(label)):
            if name in spelled:
                return spelled[name]
        close = difflib.get_close_matches(canonical(label), spelled, n=1)
        hint = f"did you mean {spelled[close[0]]!r}?" if close else f"known are {', '.join(classes)}"
        numbered = "; for numbers set data.labels" if label.strip().lstrip("-").isdigit() else ""
        raise ConfigError(f"label {label!r} is none of the classes; {hint}{numbered}")
    meanings = {number: name for number, name in SCHEMES[scheme].items() if name in spelled}
    span = f"{min(meanings)} to {max(meanings)}" if meanings else "nothing"
    if not label.isdecimal():
        raise ConfigError(
            f"label {label!r} is no number; {scheme!r} labels go from {span}, for words set data.labels: names"
        )
    if int(label) not in meanings:
        raise ConfigError(f"label {label} is out of range; {scheme!r} labels go from {span}")
    return spelled[meanings[int(label)]]
