"""Measured words: captions made from measurements alone, by a grammar, in microseconds and without a model file.

The built-in captioner, and what stands in for every text that fails its checks. A caption is deterministic for a
record, varies from record to record, and has at most `LONGEST` words. A language is one module with a function
``sentences``; :data:`LANGUAGES` lists them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from streamfer.captions import english
from streamfer.captions.english import Ranked
from streamfer.captions.measurements import Measurements

#: Most words of a caption.
LONGEST: Final = 60

LANGUAGES: dict[str, Callable[..., Iterator[Ranked]]] = {"en": english.sentences}


def describe(measured: Measurements, seed: str, language: str = "en") -> str:
    """Return a caption of what was measured; the choice of words hangs on ``seed``, the id of the clip's record."""
    fainter = 0
    while True:
        for brief in (False, True):
            draw = random.Random(f"{language}/{seed}")  # noqa: S311 - a choice of words
            ranked = list(LANGUAGES[language](measured, draw, fainter, brief=brief))
            if _length(ranked) <= LONGEST:
                return " ".join(text for _, text in ranked)
        while _length(ranked) > LONGEST and (rank := max(rank for rank, _ in ranked)) > 0:
            ranked = [entry for entry in ranked if entry[0] != rank]
        if _length(ranked) <= LONGEST or not measured.units:
            return " ".join(text for _, text in ranked)
        # Only a face on which nearly everything moves comes here: its faintest movements are counted, not named.
        weakest = min(measured.units, key=lambda unit: unit.strength)
        measured = replace(measured, units=tuple(unit for unit in measured.units if unit is not weakest))
        fainter += 1


def _length(ranked: list[Ranked]) -> int:
    return sum(len(text.split()) for _, text in ranked)
