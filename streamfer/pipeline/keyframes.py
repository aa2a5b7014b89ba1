"""Which pictures of a clip are worth words: the apex of the expression, and the onset before it.

A caption is written about few pictures. The apex is the one in which the expression is strongest against the clip's
calmest picture; the onset is the last one before it in which little of that was to be seen (the phases of FACS's
temporal coding). Strength is read off action units where the expression model has them, else off its features.

Shape suffixes: T pictures of a clip, D numbers that describe one, K keyframes, S side of a portrait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from streamfer.pipeline.session import ClipJob


#: Onset and offset: less than this share of the apex's strength is there (not yet, or no more).
_LITTLE = 1 / 3
#: Below this an expression does not change: action units lie in 0 to 1, features are compared with their own length.
_STILL = 1e-3


@dataclass(frozen=True, slots=True)
class Keyframes:
    """The pictures that a captioner is shown."""

    portraits: NDArray[np.uint8]  #: uint8 RGB (K, S, S, 3), oldest first; K = 0 where no picture of the clip was kept
    pts: tuple[int, ...]  #: of each picture, in the clip's time base
    seen_pts: tuple[int, int]  #: of the first and the last picture of the clip that show the face
    strength: float = 0.0  #: of the apex against the clip's calmest picture; 0 for a face that does not move


@dataclass(frozen=True, slots=True)
class Course:
    """Where, among a clip's pictures, an expression sets in, is strongest and fades.

    None where it is there from the start, does not move, or lasts to the end.
    """

    onset: int | None
    apex: int | None
    offset: int | None


def keyframes_of(job: ClipJob, count: int) -> Keyframes:
    """Choose at most ``count`` pictures of a clip among those whose portraits were kept."""
    seen = (job.sightings[0].frame.pts, job.sightings[-1].frame.pts)
    of_tick = dict(zip(job.ticks, range(len(job.ticks)), strict=True))
    has_units = all(sighting.actions for sighting in job.sightings)
    kept = [
        (sighting, sighting.portrait, sighting.frame.pts)
        for sighting in job.sightings
        if sighting.portrait is not None and (has_units or sighting.tick in of_tick)
    ]
    if not kept:
        return Keyframes(np.zeros((0, 8, 8, 3), np.uint8), (), seen)
    if has_units:
        strengths_T = unit_strengths(np.array([sighting.actions for sighting, _, _ in kept], np.float32))
    else:
        rows = [of_tick[sighting.tick] for sighting, _, _ in kept]
        strengths_T = feature_strengths(job.features[rows].float().cpu().numpy())
    chosen = choose(strengths_T, course_of(strengths_T), count)
    return Keyframes(
        np.stack([kept[place][1] for place in chosen]),
        tuple(kept[place][2] for place in chosen),
        seen,
        float(strengths_T.max()),
    )


def unit_strengths(units_TD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how far each picture's action units lie from those of the calmest picture: float32 (T,).

    The calmest picture is the one with the least activity in all units together.
    """
    smooth_TD = smooth(units_TD)
    calmest = int(np.argmin(np.linalg.norm(smooth_TD, axis=1)))
    strengths: NDArray[np.float32] = np.linalg.norm(smooth_TD - smooth_TD[calmest], axis=1).astype(np.float32)
    return strengths


def feature_strengths(features_TD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how far each picture's feature lies from the clip's most usual one, as a share of its length: (T,).

    Features do not say which picture is calm; a face is calm most of the time, so the picture nearest to all the
    others stands in.
    """
    smooth_TD = smooth(features_TD)
    apart_TT = np.linalg.norm(smooth_TD[:, None] - smooth_TD[None], axis=2)
    usual = int(np.argmin(apart_TT.sum(axis=1)))
    strengths: NDArray[np.float32] = (apart_TT[usual] / max(float(np.linalg.norm(smooth_TD[usual])), 1e-12)).astype(
        np.float32
    )
    return strengths


def course_of(strengths_T: NDArray[np.float32]) -> Course:
    """Return the course of an expression from its strength in each picture, float32 (T,), T at least 1."""
    apex = int(np.argmax(strengths_T))
    if strengths_T[apex] < _STILL:
        return Course(None, None, None)
    little = _LITTLE * float(strengths_T[apex])
    before = np.flatnonzero(strengths_T[:apex] <= little)
    after = np.flatnonzero(strengths_T[apex + 1 :] <= little)
    return Course(int(before[-1]) if len(before) else None, apex, apex + 1 + int(after[0]) if len(after) else None)


def choose(strengths_T: NDArray[np.float32], course: Course, count: int) -> list[int]:
    """Return the places of the pictures to be shown, ascending.

    Args:
        strengths_T: strength of the expression in each picture, float32 (T,).
        count: 1 for the apex alone, 2 with the onset (the calmest picture before the apex where there is none),
            3 with the offset where there is one.
    """
    if course.apex is None:
        # Nothing moves: the middle stands for the clip.
        return [len(strengths_T) // 2]
    chosen = [course.apex]
    if count > 1 and course.apex > 0:
        calmest = int(np.argmin(strengths_T[: course.apex]))
        chosen.insert(0, calmest if course.onset is None else course.onset)
    if count > 2 and course.offset is not None:
        chosen.append(course.offset)
    return chosen


def smooth(values_TD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average each picture with its neighbours, (T, D): a single blurred picture is no expression."""
    padded = np.concatenate([values_TD[:1], values_TD, values_TD[-1:]]).astype(np.float32)
    mean: NDArray[np.float32] = ((padded[:-2] + padded[1:-1] + padded[2:]) / 3).astype(np.float32)
    return mean
