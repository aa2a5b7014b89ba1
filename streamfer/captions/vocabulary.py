"""The words of facial action: 27 action units with names, verbs, regions and ways to speak of them; the emotions.

The tables themselves, and their sources, stand in ``vocabulary.toml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from streamfer.files import table_beside


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


@dataclass(frozen=True, slots=True)
class Wording:
    """The ways to speak of one unit, or of units that one phrase covers together."""

    units: frozenset[int]
    parts: tuple[str, ...]
    states: tuple[str, ...]
    deeds: tuple[str, ...]
    moves: tuple[str, ...]
    adjectives: tuple[str, ...]
    short: tuple[str, ...]
    plural: bool = True

    @property
    def order(self) -> int:
        return min(list(ACTION_UNITS).index(unit) for unit in self.units)

    @property
    def be(self) -> str:
        return "are" if self.plural else "is"


def _wording(row: dict[str, Any]) -> Wording:
    ways = {name: tuple(value) for name, value in row.items() if name not in ("units", "plural")}
    return Wording(frozenset(row["units"]), plural=row.get("plural", True), **ways)


_DATA = table_beside(__file__)
#: The 27 units by number, in reading order: brows, eyes, cheeks, nose, mouth, chin, jaw, neck.
ACTION_UNITS = {int(number): ActionUnit(int(number), *row) for number, row in _DATA["units"].items()}
#: A unit that always comes with others shows without them being named.
IMPLIES: dict[int, frozenset[int]] = {int(unit): frozenset(brought) for unit, brought in _DATA["implies"].items()}
#: Pairs that one face at one moment hardly shows together; a text that names both contradicts itself.
OPPOSED: frozenset[frozenset[int]] = frozenset(map(frozenset, _DATA["opposed"]))
#: Units that speak for an emotion, those that it can hardly do without first.
PROTOTYPES: dict[str, tuple[int, ...]] = {name: tuple(row["units"]) for name, row in _DATA["emotions"].items()}
#: Words by which texts speak of an emotion; the first is the noun that our own sentences use.
EMOTION_WORDS: dict[str, tuple[str, ...]] = {name: tuple(row["words"]) for name, row in _DATA["emotions"].items()}
_DOUBLED = ("knit", "let", "drop")
_CANONICAL = {word: name for name, words in EMOTION_WORDS.items() for word in words}
_ROWS = [_wording(row) for row in _DATA["wordings"]]
#: One row a unit.
SINGLE = tuple(row for row in _ROWS if len(row.units) == 1)
#: Units that everyday language takes together; one of these stands in for all of its units.
JOINT = tuple(row for row in _ROWS if len(row.units) > 1)
BY_UNIT = {unit: row for row in SINGLE for unit in row.units}


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


@cache
def wordings(units: frozenset[int]) -> tuple[tuple[Wording, ...], tuple[Wording, ...]]:
    """Return, for units that are present, the rows of single units in reading order, and the joint rows that fit."""
    return tuple(BY_UNIT[unit] for unit in in_order(units)), tuple(row for row in JOINT if row.units <= units)


def third_person(deed: str) -> str:
    """Inflect every verb of a deed: ``tighten and press {}`` becomes ``tightens and presses {}``."""
    return _with_verbs(deed, inflect)


def gerund(deed: str) -> str:
    """Turn every verb of a deed into its -ing form: ``knit {}`` becomes ``knitting {}``."""
    return _with_verbs(
        deed, lambda verb: f"{verb}{verb[-1]}ing" if verb in _DOUBLED else f"{verb.removesuffix('e')}ing"
    )


def _with_verbs(deed: str, form: Callable[[str], str]) -> str:
    words = deed.split(" ")
    verbs = {0, 2} if words[1:2] == ["and"] else {0}
    return " ".join(form(word) if place in verbs else word for place, word in enumerate(words))
