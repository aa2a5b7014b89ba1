"""Measured words in English: which sentences say what was measured; their words stand in ``english.toml``."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from streamfer.captions.measurements import Measurements, Unit, exclusive
from streamfer.captions.vocabulary import BY_UNIT, EMOTION_WORDS, IMPLIES, JOINT, PROTOTYPES, Wording, join
from streamfer.files import table_beside

#: A sentence with its rank: those of the highest rank are left out first where a caption grows too long.
Ranked = tuple[int, str]
_SENTENCES: dict[str, dict[str, list[str]]] = table_beside(__file__)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SHARES = {1 / 4: "a quarter", 1 / 3: "a third", 1 / 2: "half", 2 / 3: "two thirds", 3 / 4: "three quarters"}
#: Eyes are closed, and a tongue is out, or not.
_WITHOUT_DEGREES = {19, 43}
_ADVERBS = {"strong": "strongly ", "slight": "slightly ", "clear": ""}
#: Most parts of the face in one sentence; and where words are short.
_MOST, _MOST_BRIEF = 4, 9
#: Seen in less than this share of a clip is worth a sentence.
_MOSTLY = 0.8
_BROWS, _INNER, _LIPS = (next(row for row in JOINT if row.units == pair) for pair in ({1, 2}, {1, 4}, {23, 24}))


def confidence(measured: Measurements) -> str:
    """Return how sure the label is, in a word."""
    steps = ((0.75, "clear"), (0.55, "likely"), (0.4, "weak"))
    return next((word for least, word in steps if measured.confidence >= least), "unsure")


def moment(measured: Measurements, seconds: float) -> str:
    """Return a time as a reader finds it: on a file's own clock, or within a live clip."""
    if measured.wall:
        return f"second {max(0.0, seconds - measured.start):.1f}"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def sentences(
    measured: Measurements, draw: random.Random, fainter: int = 0, *, brief: bool = False
) -> Iterator[Ranked]:
    """Yield ranked sentences; ``fainter`` movements are there besides and are only counted; ``brief`` saves words."""
    yield 0, _label(measured, draw, brief=brief)
    if measured.units is not None and measured.readable:
        yield from ((0, text) for text in _movements(measured, draw, brief=brief))
        if fainter:
            are = "movements are" if fainter > 1 else "movement is"
            yield 0, f"{number_word(fainter).capitalize()} fainter {are} there as well."
        if text := _course(measured, draw):
            yield 2, text
    if measured.people is not None and measured.people > 1:
        yield 3, f"{number_word(measured.people).capitalize()} people are in view."
    if measured.seen < _MOSTLY:
        share = _SHARES[min(_SHARES, key=lambda share: abs(share - measured.seen))]
        yield 1, f"The face is seen in about {share} of the clip."


def number_word(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def strength_word(strength: float) -> str:
    """Return how far beyond its threshold a unit goes (0 to 1), in a word."""
    return "strong" if strength >= 0.7 else "slight" if strength < 0.2 else "clear"


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _label(measured: Measurements, draw: random.Random, *, brief: bool) -> str:
    if measured.emotion is None:
        ways = _SENTENCES["open"]
        return draw.choice(ways.get(measured.reason or "", ways["uncertain"]))
    kind = "named" if measured.emotion not in EMOTION_WORDS else "neutral" if measured.emotion == "neutral" else "label"
    said = _SENTENCES[kind][confidence(measured)]
    # In brief, "the face" begins the next sentence.
    return draw.choice([way for way in said if not brief or not way.startswith("The face")]).format(measured.emotion)


def _movements(measured: Measurements, draw: random.Random, *, brief: bool) -> Iterator[str]:
    units = _spoken(measured.units or ())
    later = _later(units)
    if not units:
        yield draw.choice(_SENTENCES["still"]["neutral" if measured.emotion == "neutral" else "other"])
    apart = [] if brief else _apart([unit for unit in units if unit not in later])
    told = [*later, *(unit for cluster in apart for unit in cluster)]
    groups = list(_groups([unit for unit in units if unit not in told], measured, draw, brief=brief))
    for number, group in enumerate(_cut(groups, _MOST_BRIEF if brief else _MOST)):
        lead = draw.choice(_SENTENCES["further"]["ways"]) if number and len(group) > 1 and not brief else ""
        said = _said(group, brief=brief)
        if number:
            said = said.replace("the face shows", "it also shows")
        yield sentence(f"{lead}{said}")
    for cluster in apart:
        said = _said(list(_groups(cluster, measured, draw, brief=False)), brief=False)
        yield f"At {moment(measured, cluster[0].apex or measured.start)} {said}."
    for unit in later:
        yield f"At {moment(measured, unit.apex or measured.start)} {movement(unit.number)} instead."


def _spoken(units: Sequence[Unit]) -> list[Unit]:
    """Leave out what another unit brings along: a dropped jaw parts the lips."""
    brought = frozenset[int]().union(*(IMPLIES.get(unit.number, frozenset()) for unit in units))
    return [unit for unit in units if unit.number not in brought]


def _later(units: Sequence[Unit]) -> list[Unit]:
    """Return the units that follow their opposite, by time."""
    found = [unit for unit in units
             if any(exclusive(unit, other) and (other.apex or 0) < (unit.apex or 0) for other in units)]  # fmt: skip
    return sorted(found, key=lambda unit: unit.apex or 0)


def _apart(units: Sequence[Unit]) -> list[list[Unit]]:
    """Return, together where they are there together, the units that are gone or not yet there with the strongest."""
    found: list[list[Unit]] = []
    lead = max(units, key=lambda unit: unit.strength, default=None)
    for unit in sorted(units, key=lambda unit: unit.apex or 0):
        if lead is None or unit.meets(lead):
            continue
        if found and all(unit.meets(other) for other in found[-1]):
            found[-1].append(unit)
        else:
            found.append([unit])
    return found


@dataclass(slots=True)
class _Part:
    """A part of the face with everything that it does, as states (``pulled up``) or, in brief, as adjectives."""

    name: str
    plural: bool
    states: list[str]


def _groups(units: Sequence[Unit], measured: Measurements, draw: random.Random, *, brief: bool) -> Iterator[_Part]:
    strongest = max(units, key=lambda unit: unit.strength, default=None)
    present = {unit.number for unit in units}
    parts: dict[tuple[str, ...], _Part] = {}
    by_number = {unit.number: unit for unit in units}
    for row in _rows(by_number):
        covered = [by_number[number] for number in row.units]
        if row.units == _LIPS.units:
            states = ["tightened", "pressed" if brief else "pressed together"]
        elif brief:
            states = ["furrowed" if row.units == {4} and present & {1, 2} else row.adjectives[0]]
        else:
            states = [draw.choice(_states_of(row, present, measured))]
        if strongest is not None and covered == [strongest] and strongest.number not in _WITHOUT_DEGREES:
            states[0] = f"{_ADVERBS[strength_word(strongest.strength)]}{states[0]}"
        name = row.short[0] if brief else draw.choice(row.parts[:2])
        part = parts.setdefault(row.short if brief else row.parts[:2], _Part(name, row.plural, []))
        part.states += states
    yield from parts.values()


def _cut(groups: Sequence[_Part], most: int) -> Iterator[Sequence[_Part]]:
    """Cut parts into sentences: at most ``most`` in one, and a part with a list of its own by itself."""
    listed = [group for group in groups if len(group.states) > 2]
    plain = [group for group in groups if len(group.states) <= 2]
    count = -(-len(plain) // most)
    for number in range(count):
        yield plain[number * len(plain) // count : (number + 1) * len(plain) // count]
    yield from ([group] for group in listed)


def _said(groups: Sequence[_Part], *, brief: bool) -> str:
    """Return ``the cheeks are raised and the lip corners are pulled up``; ``the face shows raised cheeks`` in brief."""
    if brief and len(groups[0].states) <= 2:
        return f"the face shows {join(_shape(group) for group in groups)}"
    # "Sucked-in lips" are "sucked in".
    said = (f"the {group.name} {'are' if group.plural else 'is'} {join(group.states)}" for group in groups)
    return join(said).replace("ed-in", "ed in")


def _shape(group: _Part) -> str:
    """Return ``strongly raised cheeks``, ``a wrinkled nose``."""
    words = f"{', '.join(group.states)} {group.name}"
    return words if group.plural else f"a{'n' if words[0] in 'aeiou' else ''} {words}"


def _rows(numbers: Collection[int]) -> Iterator[Wording]:
    """Yield wordings that cover each unit once; pairs that everyday words take together first."""
    pairs = [row for row in (_BROWS, _LIPS) if row.units <= set(numbers)]
    if not {1, 2} <= set(numbers) and _INNER.units <= set(numbers):
        pairs.append(_INNER)
    told: set[int] = set()
    for number in numbers:
        if number in told:
            continue
        row = next((row for row in pairs if number in row.units), BY_UNIT[number])
        told |= row.units
        yield row


def _states_of(row: Wording, present: set[int], measured: Measurements) -> tuple[str, ...]:
    if row.units == {4} and present & {1, 2}:
        # Raised brows are not lowered: of unit 4 they have what draws them together.
        return ("drawn together",)
    if row.units == {12} and measured.emotion == "happiness":
        return ("pulled up", "pulled up in a smile")
    return row.states[:2]


def _course(measured: Measurements, draw: random.Random) -> str | None:
    """Return when the expression, or what moves most, sets in, is strongest and fades, as far as the clip shows it."""
    units = [unit for unit in measured.units or () if unit.apex is not None]
    if not units:
        return None
    # Only what speaks for an emotion tells its course: raised brows may sink while a smile goes on.
    speaking = [unit for unit in units if unit.number in PROTOTYPES.get(measured.emotion or "", ())]
    what = "The expression" if speaking else "The movement" if len(units) == 1 else "The strongest movement"
    lead = max(speaking or units, key=lambda unit: unit.strength)
    onset, apex, offset = (
        None if one is None else moment(measured, one) for one in (lead.onset, lead.apex, lead.offset)
    )
    if onset is None and offset is None:
        # Where one movement takes another's place, not everything lasts.
        seen = "as long as the face is seen" if measured.seen < _MOSTLY else "through the whole clip"
        return None if _later(units) else f"{what} lasts {seen}."
    steps = []
    if onset is not None and onset != apex:
        steps.append(draw.choice((f"sets in at {onset}", f"begins at {onset}")))
    strongest = f"peaks at {apex}" if "strongest" in what else f"is strongest at {apex}"
    steps.append(draw.choice((strongest, f"peaks at {apex}")))
    if offset is not None and offset != apex:
        steps.append(draw.choice((f"is gone by {offset}", f"fades by {offset}")))
    return f"{what} {join(steps)}."


def movement(*units: int) -> str:
    """Return action units in words: ``the lip corners are pulled up``."""
    return join(f"the {row.parts[0]} {row.be} {row.states[0]}" for row in _rows(units))
