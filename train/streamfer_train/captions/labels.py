"""What is known of a face before it is described: action units and emotions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamfer.captions.vocabulary import ACTION_UNITS, canonical_emotion
from streamfer.errors import RecordError

#: Letters by which FACS writes intensity.
_INTENSITY_LETTERS = "ABCDE"


@dataclass(frozen=True, slots=True)
class FaceLabels:
    """Labels of one face."""

    action_units: frozenset[int] | None = None  #: those that are present; None means that nobody coded them
    emotions: tuple[str, ...] = ()  #: in the words of :func:`canonical_emotion`; several name a mixed expression
    #: 1 (trace) to 5 (maximum) for some or all of the present units
    intensities: Mapping[int, int] = field(default_factory=dict)
    coded: frozenset[int] | None = None  #: those that were looked for, None: all; the absence of others is unknown

    def __post_init__(self) -> None:
        """Bring emotions to one word each and check the units."""
        present = self.action_units or frozenset()
        unknown = sorted((present | (self.coded or frozenset())) - ACTION_UNITS.keys())
        if unknown:
            raise RecordError(f"action unit {unknown[0]}: is none of the 27 that can be described; leave it out")
        if self.coded is not None and not present <= self.coded:
            raise RecordError(f"action unit {min(present - self.coded)}: present, yet not among the coded; add it")
        for unit, strength in self.intensities.items():
            if unit not in present or not 1 <= strength <= 5:
                raise RecordError(f"action unit {unit}: intensity {strength} needs a present unit and a value of 1-5")
        object.__setattr__(self, "emotions", tuple(dict.fromkeys(map(canonical_emotion, self.emotions))))

    @property
    def absent(self) -> frozenset[int]:
        """Units that were looked for and not found; empty where nobody coded."""
        if self.action_units is None:
            return frozenset()
        return frozenset(ACTION_UNITS if self.coded is None else self.coded) - self.action_units

    @classmethod
    def of(cls, units: Iterable[int] | None = None, *emotions: str, **more: Any) -> FaceLabels:
        """Labels from plain numbers and words; units outside the vocabulary are dropped."""
        known = None if units is None else frozenset(units).intersection(ACTION_UNITS)
        return cls(known, emotions, **more)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> FaceLabels:
        """Labels from ``{"action_units": [1, "4C"], "emotions": ["sad"]}``, each optional.

        A unit may carry its intensity as a letter, A (trace) to E (maximum); ``coded`` is optional.

        Raises:
            RecordError: a value is not of that form.
        """
        units, strengths = _units(entry.get("action_units"))
        coded = entry.get("coded")
        emotions = entry.get("emotions", [])
        emotions = [emotions] if isinstance(emotions, str) else emotions
        if not isinstance(emotions, list) or not all(isinstance(word, str) and word.strip() for word in emotions):
            raise RecordError('field emotions: must be a list of words, as in ["happiness"]')
        return cls(units, tuple(emotions), strengths, None if coded is None else _units(coded)[0])

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads, without the empty fields."""
        entry: dict[str, Any] = {}
        if self.action_units is not None:
            entry["action_units"] = [
                f"{unit}{_INTENSITY_LETTERS[self.intensities[unit] - 1]}" if unit in self.intensities else unit
                for unit in sorted(self.action_units)
            ]
        if self.emotions:
            entry["emotions"] = list(self.emotions)
        if self.coded is not None:
            entry["coded"] = sorted(self.coded)
        return entry


def _units(value: Any) -> tuple[frozenset[int] | None, dict[int, int]]:
    if value is None:
        return None, {}
    if not isinstance(value, list):
        raise RecordError('field action_units: must be a list of numbers, as in [1, 2, "12C"]')
    units, strengths = set(), {}
    for item in value:
        text = str(item)
        letter = text[-1:].upper() if isinstance(item, str) and text[-1:].upper() in _INTENSITY_LETTERS else ""
        number = text[: -len(letter)] if letter else text
        if isinstance(item, bool) or not number.isdecimal():
            raise RecordError(f'field action_units: {item!r} is no unit; write a number, or one with a letter: "12C"')
        units.add(int(number))
        if letter:
            strengths[int(number)] = _INTENSITY_LETTERS.index(letter) + 1
    return frozenset(units), strengths
