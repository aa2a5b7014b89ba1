"""What is known of the faces that the captioner learns from: photographs by machine labels, rendered clips exactly.

A photograph's action units are its blendshape scores above a threshold, and of some units it cannot know; a rendered
clip knows all 22. What a source cannot know must not be learnt as absent.

Shape suffixes: N faces, V views or frames of each, A action units.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamfer_train.captions.labels import Course, FaceLabels
from streamfer_train.captions.vocabulary import OPPOSED, in_order
from streamfer_train.mini.data import CLASSES, Pictures
from streamfer_train.mini.units import BLENDSHAPES, PRESENT
from streamfer_train.render.actions import ACTION_UNITS
from streamfer_train.render.clips import RenderedClips
from streamfer_train.render.expressions import EMOTIONS

NUMBERS: tuple[int, ...] = tuple(int(name[2:]) for name in ACTION_UNITS)
"""Action units in the order of arrays of intensities."""
UNITS: tuple[int, ...] = in_order(NUMBERS)
"""The same in reading order: what a caption can mention."""
PHOTOGRAPHED: frozenset[int] = frozenset(int(name[2:]) for name in BLENDSHAPES)
"""Units that photographs have labels of."""

#: Regions of which photographs know too little to say that nothing happens there: cheeks and nose.
_HIDDEN = frozenset({6, 9, 11})


@dataclass(frozen=True, slots=True)
class Shown:
    """One showing of a face.

    Attributes:
        rows: places of its keyframes in the source's features, in order.
        labels: what the keyframes show; `coded` are the units that the source knows.
    """

    rows: tuple[int, ...]
    labels: FaceLabels

    @property
    def unknown(self) -> frozenset[int]:
        """Units that may or may not be there."""
        return frozenset(UNITS) - (self.labels.coded or frozenset())

    @property
    def by_region(self) -> FaceLabels:
        """Labels for questions about regions, whose rest is said of what can be planned, known or not.

        Units that no source has count as absent, and so do the unknown ones of a region with other units: that a
        plan leaves those out teaches nothing, for they are not in its softmax.
        """
        unknown = self.unknown & _HIDDEN
        return replace(self.labels, coded=None if not unknown else frozenset(_ALL) - _HIDDEN)


_ALL = in_order(range(100))


class Faces(Protocol):
    """A source of faces."""

    def __len__(self) -> int:
        """Return the number of faces."""

    def draw(self, face: int, draw: random.Random) -> Shown:
        """Show one, from varying views."""


class Stills:
    """Photographs: one keyframe, or several views of one that stand for a clip in which nothing moves."""

    def __init__(self, pictures: Pictures, views: int, keyframes: int) -> None:
        self.labels = photograph_labels(pictures)
        self.known = [number for number, labels in enumerate(self.labels) if labels.action_units is not None]
        self._views, self._keyframes = views, keyframes

    def __len__(self) -> int:
        return len(self.known)

    def draw(self, face: int, draw: random.Random) -> Shown:
        """Show one photograph with known action units, counted among those."""
        number = self.known[face]
        count = 1 if draw.random() < 0.5 else draw.randint(1, self._keyframes)
        rows = tuple(number * self._views + draw.randrange(self._views) for _ in range(count))
        return Shown(rows, self.labels[number])


class Films:
    """Rendered clips, shown by their apex alone or with frames before and behind it."""

    def __init__(self, clips: RenderedClips, moments: Sequence[int], keyframes: int) -> None:
        """Take over labels; `moments` are the frames whose features are kept."""
        self._units_NVA = clips.action_units[:, moments].astype(np.float32)
        self._strength_NV = clips.envelope[:, moments].astype(np.float32)
        self._emotions, self._follows = clips.emotions, clips.preceding >= 0
        self._keyframes = keyframes

    def __len__(self) -> int:
        return len(self._emotions)

    def draw(self, face: int, draw: random.Random) -> Shown:
        """Show one clip; where an expression follows on another, by a frame in which it alone is there."""
        views = self._strength_NV.shape[1]
        apex = int(self._strength_NV[face].argmax()) if EMOTIONS[self._emotions[face]] != "neutral" else None
        apex = draw.randrange(views) if apex is None else apex
        most = 1 if self._follows[face] else min(self._keyframes, views)
        others = draw.sample([view for view in range(views) if view != apex], draw.randint(1, most) - 1)
        chosen = sorted([apex, *others])
        return Shown(tuple(face * views + view for view in chosen), self.labels(face, apex, chosen))

    def labels(self, face: int, apex: int, chosen: Sequence[int]) -> FaceLabels:
        """Return what some frames of a clip show together; at least what its apex shows."""
        together = self._units_NVA[face, list(chosen)].max(axis=0)
        present = _present(together)
        if any(pair <= present for pair in OPPOSED):
            # Lips that are pressed before they part: what the apex shows is said.
            present = _present(self._units_NVA[face, apex])
        # An expression of which no action is visible yet is none.
        emotion = EMOTIONS[self._emotions[face]] if present else "neutral"
        return FaceLabels(without_opposed(present, self._units_NVA[face, apex]), (emotion,), coded=frozenset(NUMBERS))


def photograph_labels(pictures: Pictures, *, raw: bool = False) -> list[FaceLabels]:
    """Return the labels of photographs; action units are None where there are no scores.

    Of two units that contradict each other the weaker is left out, unless `raw`: measures take labels as they are.
    """
    found = []
    for row, label in zip(pictures.units.numpy(), pictures.labels.tolist(), strict=True):
        emotion = (CLASSES[label],)
        if np.isnan(row[NUMBERS.index(1)]):
            found.append(FaceLabels(None, emotion))
            continue
        present = _present(row) & PHOTOGRAPHED
        kept = present if raw else without_opposed(present, row)
        found.append(FaceLabels(kept, emotion, coded=PHOTOGRAPHED))
    return found


def without_opposed(present: frozenset[int], intensities_A: NDArray[np.float32]) -> frozenset[int]:
    """Leave out the weaker of every two units that one face hardly shows together."""
    kept = set(present)
    for pair in sorted(OPPOSED, key=sorted):
        if pair <= kept:
            kept.remove(min(sorted(pair), key=lambda unit: float(intensities_A[NUMBERS.index(unit)])))
    return frozenset(kept)


def drawn_course(draw: random.Random) -> Course:
    """Draw the course of an expression: it may be there from the first frame, and last to the final one."""
    onset, apex, offset = sorted(draw.random() for _ in range(3))
    return Course(onset if draw.random() < 0.65 else None, apex, offset if draw.random() < 0.65 else None)


def _present(intensities_A: NDArray[np.float32]) -> frozenset[int]:
    return frozenset(number for number, value in zip(NUMBERS, intensities_A, strict=True) if value >= PRESENT)
