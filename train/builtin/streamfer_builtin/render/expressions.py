"""Emotions as action units: prototypes with their variants, chance additions and intensities.

Prototypes follow EMFACS and Du, Tao and Martinez, "Compound facial expressions of emotion" (PNAS 111, 2014), whose
percentages of people guide the chances. They are hypotheses about configurations, not proof of feeling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfer_builtin.render.actions import ACTION_UNITS, UNIT

EMOTIONS = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
"""Classes, in the order of their indices."""


@dataclass(frozen=True, slots=True)
class Prototype:
    """One way to show an emotion: ``core`` units with relative strengths, ``chance`` units with chance and strength."""

    core: dict[str, float]
    chance: dict[str, tuple[float, float]]
    share: float


PROTOTYPES: dict[str, tuple[Prototype, ...]] = {
    "happiness": (
        Prototype({"AU06": 0.8, "AU12": 0.9, "AU25": 0.6}, {"AU07": (0.2, 0.4), "AU26": (0.3, 0.35)}, 0.5),
        Prototype({"AU06": 0.6, "AU12": 0.8}, {"AU14": (0.2, 0.4), "AU01": (0.1, 0.3)}, 0.3),
        Prototype({"AU06": 1.0, "AU12": 1.0, "AU25": 0.9, "AU26": 0.6}, {"AU10": (0.3, 0.4), "AU07": (0.4, 0.5)}, 0.2),
    ),
    "sadness": (
        Prototype({"AU01": 0.9, "AU04": 0.6, "AU15": 0.9}, {"AU17": (0.67, 0.6), "AU43": (0.2, 0.35)}, 0.55),
        Prototype({"AU04": 0.7, "AU15": 0.8, "AU17": 0.6}, {"AU01": (0.6, 0.7), "AU06": (0.4, 0.4)}, 0.25),
        Prototype({"AU01": 0.9, "AU04": 0.5, "AU15": 0.6, "AU25": 0.4}, {"AU20": (0.2, 0.4), "AU07": (0.3, 0.4)}, 0.2),
    ),
    "anger": (
        Prototype({"AU04": 1.0, "AU07": 0.7, "AU24": 0.8}, {"AU17": (0.5, 0.6), "AU23": (0.3, 0.6)}, 0.45),
        Prototype(
            {"AU04": 1.0, "AU05": 0.6, "AU07": 0.5, "AU23": 0.8}, {"AU17": (0.4, 0.5), "AU09": (0.15, 0.4)}, 0.25
        ),
        Prototype({"AU04": 1.0, "AU07": 0.6, "AU10": 0.6, "AU25": 0.7, "AU16": 0.6}, {"AU26": (0.5, 0.5)}, 0.3),
    ),
    "surprise": (
        Prototype({"AU01": 0.9, "AU02": 0.9, "AU05": 0.8, "AU26": 0.9}, {}, 0.6),
        Prototype({"AU01": 0.8, "AU02": 0.9, "AU25": 0.5, "AU26": 0.5}, {"AU05": (0.66, 0.8)}, 0.25),
        Prototype({"AU01": 1.0, "AU02": 1.0, "AU05": 0.9}, {"AU22": (0.3, 0.4), "AU25": (0.5, 0.4)}, 0.15),
    ),
    "disgust": (
        Prototype({"AU09": 1.0, "AU10": 0.7, "AU17": 0.6}, {"AU04": (0.5, 0.5), "AU07": (0.4, 0.5)}, 0.5),
        Prototype({"AU10": 1.0, "AU15": 0.5, "AU17": 0.6, "AU04": 0.4}, {"AU09": (0.6, 0.8), "AU07": (0.3, 0.4)}, 0.25),
        Prototype({"AU09": 0.9, "AU10": 0.8, "AU16": 0.7, "AU25": 0.7}, {"AU04": (0.4, 0.6), "AU06": (0.3, 0.4)}, 0.25),
    ),
    "fear": (
        Prototype({"AU01": 0.9, "AU02": 0.6, "AU04": 0.7, "AU05": 0.9, "AU20": 0.9, "AU25": 0.7}, {}, 0.5),
        Prototype({"AU01": 1.0, "AU04": 0.7, "AU20": 0.9, "AU25": 0.6}, {"AU05": (0.7, 0.8), "AU02": (0.5, 0.6)}, 0.25),
        Prototype(
            {"AU01": 0.9, "AU02": 0.5, "AU04": 0.6, "AU05": 0.9, "AU20": 0.7, "AU26": 0.5}, {"AU07": (0.3, 0.4)}, 0.25
        ),
    ),
    "neutral": (),
}
"""Prototypes of each emotion; shares of an emotion sum to one."""


def drawn_expression(emotion: str, strength: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Peak intensities (A,), 0-1, of one way to show ``emotion``: prototype, person's variation and chance units.

    ``strength`` 0-1 scales the whole. Neutral is all zeros.
    """
    units = np.zeros(len(ACTION_UNITS), np.float32)
    prototypes = PROTOTYPES[emotion]
    if not prototypes:
        return units
    prototype = prototypes[rng.choice(len(prototypes), p=[each.share for each in prototypes])]
    for name, relative in prototype.core.items():
        units[UNIT[name]] = relative * rng.uniform(0.75, 1.2)
    for name, (chance, relative) in prototype.chance.items():
        if rng.random() < chance:
            units[UNIT[name]] = max(units[UNIT[name]], relative * rng.uniform(0.6, 1.3))
    if rng.random() < 0.15:
        stray = rng.choice(["AU01", "AU02", "AU04", "AU07", "AU14", "AU17", "AU18"])
        units[UNIT[stray]] = max(units[UNIT[stray]], rng.uniform(0.05, 0.25))
    return np.asarray(np.clip(units * strength, 0, 1), np.float32)


def habitual_face(rng: np.random.Generator) -> NDArray[np.float32]:
    """Traces (A,) that a person's resting face shows at all times, at most 0.15 each: nobody is exactly neutral."""
    units = np.zeros(len(ACTION_UNITS), np.float32)
    for name in rng.choice(["AU01", "AU04", "AU07", "AU12", "AU14", "AU15", "AU17", "AU25"], rng.integers(0, 3)):
        units[UNIT[str(name)]] = rng.uniform(0.03, 0.15)
    return units
