"""What a sentence can say of each action unit: which part of the face it moves, and the ways to say how.

The wordings stand in ``phrases.toml``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from streamfer.captions.vocabulary import ACTION_UNITS, in_order, inflect
from streamfer.files import table_beside


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


_ROWS = [_wording(row) for row in table_beside(__file__)["row"]]
#: One row a unit.
SINGLE = tuple(row for row in _ROWS if len(row.units) == 1)
#: Units that everyday language takes together; one of these stands in for all of its units.
JOINT = tuple(row for row in _ROWS if len(row.units) > 1)
BY_UNIT = {unit: row for row in SINGLE for unit in row.units}


@cache
def wordings(units: frozenset[int]) -> tuple[tuple[Wording, ...], tuple[Wording, ...]]:
    """Return, for units that are present, the rows of single units in reading order, and the joint rows that fit."""
    return tuple(BY_UNIT[unit] for unit in in_order(units)), tuple(row for row in JOINT if row.units <= units)


def third_person(deed: str) -> str:
    """Inflect every verb of a deed: ``tighten and press {}`` becomes ``tightens and presses {}``."""
    return _with_verbs(deed, inflect)


def gerund(deed: str) -> str:
    """Turn every verb of a deed into its -ing form: ``knit {}`` becomes ``knitting {}``."""
    return _with_verbs(deed, _ing)


def _with_verbs(deed: str, form: Callable[[str], str]) -> str:
    words = deed.split(" ")
    verbs = {0, 2} if words[1:2] == ["and"] else {0}
    return " ".join(form(word) if place in verbs else word for place, word in enumerate(words))


def _ing(verb: str) -> str:
    if verb in ("knit", "let", "drop"):
        return f"{verb}{verb[-1]}ing"
    return f"{verb.removesuffix('e')}ing"
