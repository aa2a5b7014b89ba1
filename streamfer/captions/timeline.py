"""One face through a whole file: its expressions clip by clip, its action units picture by picture, as episodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamfer.captions.measurements import (
    BLINK_SECONDS,
    DEFAULT_THRESHOLD,
    EYES_CLOSED,
    emotion_of,
    numbered,
    stretches,
)
from streamfer.captions.vocabulary import canonical_emotion
from streamfer.pipeline.events import Event, FrameFaces, SourceOpened
from streamfer.pipeline.keyframes import smooth
from streamfer.records import ClipLabelled, Record

#: Pictures further apart than this, seconds, do not belong to one episode.
_LONGEST_GAP = 1.0


@dataclass(frozen=True, slots=True)
class Episode:
    """A stretch in which something is there: seconds from and to, when it is strongest, and how strong (0 to 1)."""

    start: float
    end: float
    peak_at: float
    strength: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(slots=True)
class Face:
    """One track of a file: labels (from, to, noun or None, probability), intensities by unit, and when it is seen."""

    track: int
    track_id: str = ""
    area: float = 0.0
    labels: list[tuple[float, float, str | None, float]] = field(default_factory=list)
    pictures: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)

    @property
    def start(self) -> float:
        """When it is seen first, seconds."""
        return min([*self.seen, *(label[0] for label in self.labels)], default=0.0)

    @property
    def end(self) -> float:
        """When it is seen last, seconds."""
        return max([*self.seen, *(label[1] for label in self.labels)], default=0.0)


@dataclass(slots=True)
class Timeline:
    """What was measured in a file: faces by track, expressions that the model tells apart, and units that it reads.

    Each unit has its name and the intensity from which it counts as present; ``most`` faces are in the fullest picture.
    """

    faces: dict[int, Face] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    units: dict[int, tuple[str, float]] = field(default_factory=dict)
    most: int = 0

    def take(self, event: Event) -> None:
        if isinstance(event, SourceOpened):
            self.classes = tuple(canonical_emotion(name) for name in event.classes)
            limits = dict(zip(event.action_units, event.action_thresholds, strict=False))
            self.units = {number: (name, limits.get(name, DEFAULT_THRESHOLD))
                          for name, number in numbered(event.action_units)}  # fmt: skip
        elif isinstance(event, FrameFaces):
            self.most = max(self.most, len(event.faces))
            for row in event.faces:
                face = self.face(row.track)
                face.track_id = row.track_id
                face.area = max(face.area, row.box[2] * row.box[3])
                face.seen.append(event.seconds)
                if row.action_units:
                    face.pictures.append((event.seconds, dict(row.action_units)))
        elif isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            reading, clip = event.data.faces[0], event.data.clip
            self.face(reading.track).labels.append((clip.start_time, clip.end_time, *emotion_of(reading)))

    def face(self, track: int) -> Face:
        return self.faces.setdefault(track, Face(track))

    def of_units(self, face: Face, units: Iterable[int], *, blinks: bool = False) -> list[Episode]:
        """Return the episodes in which all of ``units`` that the model reads are present.

        With ``blinks``, closed eyes count however short they are, and those that stay closed do not.
        """
        numbers = [unit for unit in units if unit in self.units]
        if not numbers or not face.pictures:
            return []
        pictures = sorted(face.pictures, key=lambda picture: picture[0])
        seconds = np.array([moment for moment, _ in pictures])
        names, limits = zip(*(self.units[number] for number in numbers), strict=True)
        values_TD = np.array([[values.get(name, 0.0) for name in names] for _, values in pictures], np.float32)
        # A blink lasts a picture or two: averaging with its neighbours would hide it.
        smooth_TD = values_TD if blinks else smooth(values_TD)
        above_TD = (smooth_TD - np.array(limits)) / np.maximum(1e-6, 1 - np.array(limits))
        found = list(_episodes(seconds, above_TD.min(axis=1)))
        if EYES_CLOSED in numbers and len(pictures) > 1:
            found = [one for one in found if (one.seconds < BLINK_SECONDS) == blinks]
        return found

    def of_emotion(self, face: Face, emotion: str) -> list[Episode]:
        """Return the stretches that were labelled with an emotion."""
        found: list[Episode] = []
        for start, end, label, chance in sorted(face.labels, key=lambda label: label[:2]):
            one = Episode(start, end, (start + end) / 2, chance)
            if label == emotion and found and start <= found[-1].end + 1e-6:
                best = max(found[-1], one, key=lambda episode: episode.strength)
                found[-1] = Episode(found[-1].start, max(end, found[-1].end), best.peak_at, best.strength)
            elif label == emotion:
                found.append(one)
        return found


def _episodes(seconds: NDArray[np.float64], above_T: NDArray[np.float64]) -> Iterator[Episode]:
    """Yield the stretches in which ``above_T`` is not negative; a hole in the pictures ends one."""
    holes = np.flatnonzero(np.diff(seconds) > _LONGEST_GAP) + 1
    for first, last in stretches(above_T >= 0):
        cuts = [first, *(int(hole) for hole in holes if first < hole <= last), last + 1]
        for start, stop in pairwise(cuts):
            peak = start + int(np.argmax(above_T[start:stop]))
            begins, ends, strongest = (float(seconds[place]) for place in (start, stop - 1, peak))
            yield Episode(begins, ends, strongest, max(0.0, float(above_T[peak])))
