"""The emotions' names, and which of them a recovered prompt describes; the words stand in ``vocabulary.toml``.

The authors' checkpoints store no class names, only the token embeddings of each class's description. The
descriptions are recovered by matching embeddings, and named by the words in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from streamfer.errors import CheckpointError
from streamfer.files import table_beside

_DATA = table_beside(__file__)
#: MAFW's classes in the order of the authors' annotation files (label 0 first), and those of DFEW and FERV39k.
ELEVEN_CLASSES: tuple[str, ...] = tuple(_DATA)
SEVEN_CLASSES = ELEVEN_CLASSES[:7]
_CANONICAL = {word: name for name, entry in _DATA.items() for word in entry["words"]}


def canonical(word: str) -> str:
    """Return the name that the authors' lists use for an emotion word; words without one come back in lower case.

    >>> canonical("Happy"), canonical("Sad"), canonical("boredom")
    ('happiness', 'sadness', 'boredom')
    """
    lower = word.strip().lower()
    return _CANONICAL.get(lower, lower)


def _by_word(text: str) -> list[str]:
    found = {_CANONICAL.get(word) for word in re.findall(r"[a-z]+", text.lower())}
    return [name for name in ELEVEN_CLASSES if name in found]


def _best_assignment(descriptions: Sequence[str], names: Sequence[str]) -> list[str]:
    """Assign names to descriptions so that the number of cue words found is largest."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    cues = [_DATA[name]["cues"] for name in names]
    scores = np.array([[sum(cue in text.lower() for cue in ways) for ways in cues] for text in descriptions])
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
