"""Time courses: how an expression comes and goes in a window of 16 frames, and how a head and lids move meanwhile.

Shape suffixes: T = 16 frames, A action units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfer_builtin.render.actions import ACTION_UNITS, UNIT, without_conflicts

FRAMES = 16
"""Frames of a clip, T."""
PHASES = ("rest", "onset", "apex", "offset")
DIRECTIONS = ("onset", "offset", "full", "held", "none")
"""What a window shows of an expression: its rise, its fall, both, its steady height, or no expression at all."""
_REST, _ONSET, _APEX, _OFFSET = range(4)

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Course:
    """Rise and fall of one expression: strength 0-1 at any moment, through :meth:`at`.

    Attributes:
        start: frame (fractional, may lie outside of the window) at which the rise begins.
        rise: frames from rest to full strength.
        hold: frames at full strength.
        fall: frames back to rest.
        kind: one of `DIRECTIONS` but none.
    """

    start: float
    rise: float
    hold: float
    fall: float
    kind: str

    def at(self, moments: NDArray[np.floating | np.integer]) -> FloatArray:
        """Strength at each moment (frames); both ramps are smooth steps."""
        up = _smooth((moments - self.start) / self.rise)
        down = _smooth((moments - self.start - self.rise - self.hold) / self.fall)
        return np.asarray(up - down, np.float32)

    def phases(self) -> NDArray[np.uint8]:
        """Phase (T,) of each frame: within a tenth of rest or of full strength nothing moves visibly."""
        strength = self.at(np.arange(FRAMES))
        rising = np.arange(FRAMES) < self.start + self.rise + self.hold / 2
        phase = np.where(rising, _ONSET, _OFFSET)
        phase[strength > 0.9] = _APEX
        phase[strength < 0.1] = _REST
        return phase.astype(np.uint8)


def drawn_course(kind: str, rng: np.random.Generator) -> Course:
    """A course whose window shows ``kind``: onset, offset, full or held.

    An onset may reach its apex only in the last frames, and a full course may stay there for two frames only.
    """
    last = FRAMES - 1
    if kind == "held":
        return Course(-60, 20, 200, 20, kind)
    if kind == "full":
        start, rise, hold = rng.uniform(-1, 5), rng.uniform(2, 5), rng.uniform(1.5, 5)
        fall = rng.uniform(2.5, max(3.0, last - start - rise - hold))
        return Course(start, rise, hold, fall, kind)
    length = rng.uniform(3, 10)
    # The expression has come (or not yet gone) for between one and ten frames.
    shown = rng.uniform(1, 10)
    if kind == "onset":
        return Course(last - shown - length, length, 100, 20, kind)
    return Course(-100 + shown, 20, 80, length, kind)


def drawn_preceding(rng: np.random.Generator) -> tuple[Course, Course]:
    """Courses of an expression that is over soon, and of the one that follows it and stays."""
    turn = rng.uniform(4, 10)
    change = rng.uniform(2, 4)
    first = Course(-60, 20, 40 + turn - change / 2, change, "offset")
    return first, Course(turn - rng.uniform(0, change / 2), change, 100, 20, "onset")


def intensities(peaks_A: FloatArray, course: Course, rng: np.random.Generator, *, wobble: float = 0.04) -> FloatArray:
    """Intensities (T, A) of units that follow ``course``, each a little early or late, breathing by ``wobble``."""
    lags = rng.normal(size=len(peaks_A)) * min(0.6, course.rise * 0.12)
    moments = np.arange(FRAMES)[:, None] - lags[None]
    breath = 1 + wandering(rng, len(peaks_A), wobble)
    return np.asarray(np.clip(peaks_A[None] * course.at(moments) * breath, 0, 1), np.float32)


def wandering(rng: np.random.Generator, count: int, size: float, memory: float = 0.75) -> FloatArray:
    """A walk (T, count) that returns to zero, standard deviation ``size``."""
    steps = rng.normal(size=(FRAMES, count)) * size
    for frame in range(1, FRAMES):
        steps[frame] = memory * steps[frame - 1] + np.sqrt(1 - memory**2) * steps[frame]
    return steps.astype(np.float32)


def blinks(rng: np.random.Generator, chance: float) -> FloatArray:
    """Intensity (T,) of AU43 from at most one blink of two to five frames."""
    closed = np.zeros(FRAMES, np.float32)
    if rng.random() < chance:
        centre, reach = rng.uniform(-1, FRAMES), rng.uniform(1.0, 2.4)
        distance = np.abs(np.arange(FRAMES) - centre) / reach
        closed = np.clip(1.3 - 1.3 * distance, 0, 1).astype(np.float32)
    return closed


def speech(rng: np.random.Generator, size: float) -> FloatArray:
    """Intensities (T, A) of talking: jaw, parted lips, and now and then rounded, pressed or stretched ones."""
    units = np.zeros((FRAMES, len(ACTION_UNITS)), np.float32)
    syllables = rng.uniform(0.12, 0.3) * np.arange(FRAMES) + rng.uniform(0, 1)
    opening = np.clip(np.sin(2 * np.pi * syllables) * 0.6 + 0.35 + wandering(rng, 1, 0.25, 0.4)[:, 0], 0, 1) * size
    units[:, UNIT["AU26"]] = opening * rng.uniform(0.4, 0.8)
    units[:, UNIT["AU25"]] = np.clip(opening * 1.2, 0, 1)
    for name in ("AU18", "AU22", "AU16", "AU14", "AU10"):
        accent = np.clip(wandering(rng, 1, 0.5, 0.6)[:, 0] - 0.35, 0, 0.6) * size
        units[:, UNIT[name]] = accent
    return units


def head_motion(rng: np.random.Generator) -> FloatArray:
    """Yaw, pitch and roll (T, 3) in degrees: a pose, a drift, tremor, and sometimes a turn or a nod."""
    reach = rng.choice([6.0, 14.0, 28.0], p=[0.4, 0.4, 0.2])
    pose = np.clip(rng.normal(size=3) * [reach, reach * 0.55, 6.0], [-55, -30, -25], [55, 30, 25])
    drift = rng.normal(size=3) * [3.0, 2.0, 1.5] * np.linspace(-1, 1, FRAMES)[:, None]
    path = pose + drift + wandering(rng, 3, 0.4)
    if rng.random() < 0.3:
        turn = _smooth((np.arange(FRAMES) - rng.uniform(0, 10)) / rng.uniform(3, 8))
        path = path + turn[:, None] * rng.normal(size=3) * [12.0, 6.0, 4.0]
    if rng.random() < 0.2:
        nod = np.sin(2 * np.pi * (rng.uniform(0.08, 0.2) * np.arange(FRAMES) + rng.random()))
        path = path + nod[:, None] * np.array([1.0, rng.uniform(1, 5), 0.5])
    return np.asarray(np.clip(path, -60, 60), np.float32)


def combined(parts: list[FloatArray]) -> FloatArray:
    """The strongest of several sources of each unit (T, A), without units that do not go together."""
    strongest = np.clip(np.maximum.reduce(parts), 0, 1).astype(np.float32)
    return without_conflicts(strongest)


def _smooth(position: NDArray[np.floating]) -> NDArray[np.floating]:
    inside = np.clip(position, 0, 1)
    return np.asarray(inside * inside * (3 - 2 * inside))
