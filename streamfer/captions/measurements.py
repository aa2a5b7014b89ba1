"""What was measured of one clip's face, in the form that words are made of: the label, action units with their times.

Everything that a caption, a prompt or a check says of a clip comes from here, so none can say more than was measured.

Shape suffixes: T pictures of a clip, D action units.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamfer.captions.vocabulary import ACTION_UNITS, OPPOSED, canonical_emotion
from streamfer.pipeline.keyframes import smooth
from streamfer.records import ClipLabelled, FaceReading
from streamfer.records.values import is_wall_time

if TYPE_CHECKING:
    from streamfer.pipeline.observer import UnitTrack

#: Where a model states no fitted threshold.
DEFAULT_THRESHOLD = 0.5
#: Closed for less than this, seconds, is a blink.
BLINK_SECONDS = 0.5
EYES_CLOSED = 43
#: How far beyond its threshold (0 to 1) a brief movement must go, and closed eyes at any length: lids that look down
#: or hang are easily taken for closed ones, and a flicker at the threshold for a movement.
_SURE_OF_BRIEF, _SURE_OF_CLOSED = 0.1, 0.25
#: Raised cheeks narrow the eyes, which models read as shut: beside a smile that reading is not believed.
_SMILE = frozenset({6, 12})
#: Beside what FACS opposes: a sentence cannot have the same corners go up and down at once.
_EXCLUSIVE = OPPOSED | {frozenset({12, 15})}


@dataclass(frozen=True, slots=True)
class Unit:
    """One action unit that is present."""

    number: int  #: in FACS
    peak: float  #: highest intensity, 0 to 1
    threshold: float  #: from which the unit counts as present
    #: When it sets in, is strongest and is gone, seconds in the clip's own time; None where it is there from the start,
    #: its times are not known, or it lasts to the end.
    onset: float | None = None
    apex: float | None = None
    offset: float | None = None

    @property
    def strength(self) -> float:
        """How far beyond its threshold it goes: 0 (just) to 1 (as far as can be)."""
        return max(0.0, self.peak - self.threshold) / max(1e-6, 1 - self.threshold)

    def meets(self, other: Unit) -> bool:
        """Whether both are there at one time, as far as is known."""
        if self.apex is None or other.apex is None:
            return True
        starts = [-np.inf if unit.onset is None else unit.onset for unit in (self, other)]
        ends = [np.inf if unit.offset is None else unit.offset for unit in (self, other)]
        return max(starts) < min(ends)


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured of a clip's face; what :class:`streamfer.captions.checks.Truth` asks for."""

    emotion: str | None  #: the clip's label as a noun; None where the model abstained
    confidence: float  #: probability of the label, 0 to 1
    units: tuple[Unit, ...] | None  #: action units that are present, in reading order; None where none were read
    start: float  #: of the clip, seconds
    end: float
    wall: bool = False  #: these are Unix times
    seen: float = 1.0  #: share of the clip that truly shows the face, 0 to 1
    people: int | None = None  #: faces in view; None where nobody counted
    reason: str | None = None  #: why there is no label: ``small``, ``turned``, ``blurred`` or ``uncertain``

    @property
    def action_units(self) -> frozenset[int] | None:
        return None if self.units is None else frozenset(unit.number for unit in self.units)

    @property
    def emotions(self) -> tuple[str, ...]:
        return () if self.emotion is None else (self.emotion,)

    @property
    def readable(self) -> bool:
        """Whether the face was good enough to say anything of it."""
        return self.reason not in ("small", "turned", "blurred")

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as records carry them beside a caption."""
        units = {f"AU{unit.number:02d}": _plain(unit, "peak", "onset", "apex", "offset") for unit in self.units or ()}
        found = _plain(self, "emotion", "confidence", "reason", "people", "seen")
        return found if self.units is None else {**found, "action_units": units}


def _plain(one: Any, *names: str) -> dict[str, Any]:
    values = ((name, getattr(one, name)) for name in names)
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values if value is not None}


def measure(label: ClipLabelled, track: UnitTrack | None, people: int | None = None) -> Measurements:
    """Return what was measured of the face of a labelled clip.

    ``track`` holds its action units picture by picture; None where the model reads none.
    """
    face, clip = label.faces[0], label.clip
    emotion, confidence = emotion_of(face)
    found = Measurements(
        emotion,
        confidence,
        units=None,
        start=clip.start_time,
        end=clip.end_time,
        wall=is_wall_time(clip.time_origin, clip.start_time),
        seen=clip.frames_real / clip.frames_sampled if clip.frames_sampled else 0.0,
        people=people,
        reason=None if emotion else face.reason or "uncertain",
    )
    if track is None:
        return found
    if not found.readable:
        return replace(found, units=())
    order = list(ACTION_UNITS)
    units = _without_contradictions(list(units_of(track)))
    return replace(found, units=tuple(sorted(units, key=lambda unit: order.index(unit.number))))


def emotion_of(face: FaceReading) -> tuple[str | None, float]:
    """Return the label of a face as a noun (None where the model abstained) and its probability."""
    if not isinstance(face.top, str):
        return None, 0.0
    return canonical_emotion(face.top), face.emotions[face.top]


def numbered(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield name and number of the units that there are words for."""
    for name in names:
        match = re.fullmatch(r"AU0*(\d+)", name)
        if match and int(match[1]) in ACTION_UNITS:
            yield name, int(match[1])


def units_of(track: UnitTrack) -> Iterator[Unit]:
    """Yield the units that are present in a track, each with the stretch around its strongest picture."""
    smooth_TD = smooth(track.intensities_TD)
    thresholds = dict(zip(track.names, track.thresholds, strict=False))
    for name, number in numbered(track.names):
        values_T, limit = smooth_TD[:, track.names.index(name)], thresholds.get(name, DEFAULT_THRESHOLD)
        apex = int(np.argmax(values_T))
        if values_T[apex] < limit:
            continue
        first, last = next(one for one in stretches(values_T >= limit) if one[0] <= apex <= one[1])
        unit = Unit(
            number,
            float(values_T[apex]),
            limit,
            onset=track.seconds[first] if first > 0 else None,
            apex=track.seconds[apex] if len(values_T) > 1 else None,
            offset=track.seconds[last + 1] if last + 1 < len(values_T) else None,
        )
        brief = len(values_T) > 1 and track.seconds[last] - track.seconds[first] < BLINK_SECONDS
        weak = unit.strength < _SURE_OF_CLOSED if number == EYES_CLOSED else brief and unit.strength < _SURE_OF_BRIEF
        if not weak and not (brief and number == EYES_CLOSED):
            yield unit


def stretches(there_T: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the first and last place of every stretch that is true."""
    edges = np.flatnonzero(np.diff(there_T.astype(np.int8), prepend=0, append=0))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def _without_contradictions(units: list[Unit]) -> list[Unit]:
    """Of two units that one face cannot show at once, keep the stronger; both where they follow each other."""
    smiles = [unit for unit in units if unit.number in _SMILE]
    believed = [one for one in units if one.number != EYES_CLOSED or not any(map(one.meets, smiles))]
    kept: list[Unit] = []
    for unit in sorted(believed, key=lambda unit: (-unit.strength, unit.number)):
        if not any(exclusive(unit, other) and unit.meets(other) for other in kept):
            kept.append(unit)
    return kept


def exclusive(first: Unit, second: Unit) -> bool:
    """Whether two units can only follow each other."""
    return frozenset({first.number, second.number}) in _EXCLUSIVE
