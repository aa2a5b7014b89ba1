"""Action units and the shapes of the ICT face that show them.

The table follows FACS (Ekman, Friesen, Hager 2002) with the nearest ARKit-style shape of each unit; it is an
approximation, made for rendering. Shape suffixes: T frames, A action units, E expression shapes of the face model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ACTION_UNITS = (
    "AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU09", "AU10", "AU12", "AU14", "AU15",
    "AU16", "AU17", "AU18", "AU20", "AU22", "AU23", "AU24", "AU25", "AU26", "AU28", "AU43",
)  # fmt: skip
"""Names of the rendered action units, in the order of every array of intensities."""
UNIT = {name: position for position, name in enumerate(ACTION_UNITS)}

_PAIRED: dict[str, dict[str, float]] = {
    "AU01": {"browInnerUp": 1.1},
    "AU02": {"browOuterUp": 1.1},
    "AU04": {"browDown": 1.25},
    "AU05": {"eyeWide": 1.1},
    "AU06": {"cheekSquint": 0.9, "cheekRaiser": 0.7, "eyeSquint": 0.15},
    "AU07": {"eyeSquint": 1.1},
    "AU09": {"noseSneer": 1.0, "mouthUpperUp": 0.15, "browDown": 0.2},
    "AU10": {"mouthUpperUp": 0.85},
    "AU12": {"mouthSmile": 1.0},
    "AU14": {"mouthDimple": 1.0},
    "AU15": {"mouthFrown": 1.15},
    "AU16": {"mouthLowerDown": 1.0},
    "AU20": {"mouthStretch": 1.1},
    "AU23": {"mouthPress": 0.5},
    "AU24": {"mouthPress": 1.0},
    "AU25": {"mouthUpperUp": 0.12, "mouthLowerDown": 0.25},
    "AU43": {"eyeBlink": 1.0},
}
_SINGLE: dict[str, dict[str, float]] = {
    "AU17": {"mouthShrugLower": 1.0, "mouthShrugUpper": 0.35},
    "AU18": {"mouthPucker": 0.9},
    "AU22": {"mouthFunnel": 1.0},
    "AU23": {"mouthRollUpper": 0.3, "mouthRollLower": 0.35},
    "AU24": {"mouthRollUpper": 0.15, "mouthRollLower": 0.15},
    "AU25": {"jawOpen": 0.1},
    "AU26": {"jawOpen": 0.75},
    "AU28": {"mouthRollUpper": 0.9, "mouthRollLower": 0.9},
}

_APART = ("AU25", "AU26")
_EXCLUSIVE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AU24", _APART),
    ("AU23", _APART),
    ("AU28", _APART),
    ("AU43", ("AU05",)),
    ("AU18", ("AU20",)),
    ("AU22", ("AU20",)),
    ("AU12", ("AU15",)),
)
"""Units that do not go together: of each pair the weaker is taken out."""


def shape_matrix(names: tuple[str, ...]) -> NDArray[np.float32]:
    """Weights (2, A, E) of the shapes ``names`` for each unit at full intensity: the person's left and right half.

    A shape that has no sides gets half of its weight from each half.

    Raises:
        KeyError: the face model lacks a shape of the table.
    """
    place = {name: position for position, name in enumerate(names)}
    matrix = np.zeros((2, len(ACTION_UNITS), len(names)), np.float32)
    for unit, shapes in _PAIRED.items():
        for shape, weight in shapes.items():
            for half, side in enumerate("LR"):
                matrix[half, UNIT[unit], place[f"{shape}_{side}"]] = weight
    for unit, shapes in _SINGLE.items():
        for shape, weight in shapes.items():
            matrix[:, UNIT[unit], place[shape]] = weight / 2
    return matrix


def without_conflicts(intensities_TA: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take out, frame by frame, the weaker of two units that do not go together; parted lips follow the jaw.

    A dropped jaw parts the lips (25 is implied by 26), so AU25 is at least as strong as AU26.
    """
    result = intensities_TA.copy()
    for unit, others in _EXCLUSIVE:
        strength = result[:, UNIT[unit]]
        rival = result[:, [UNIT[name] for name in others]].max(axis=1)
        for name in others:
            result[:, UNIT[name]] *= rival >= strength
        result[:, UNIT[unit]] *= strength > rival
    jaw = result[:, UNIT["AU26"]]
    result[:, UNIT["AU25"]] = np.maximum(result[:, UNIT["AU25"]], jaw)
    return result


def shape_weights(
    intensities_TA: NDArray[np.float32], sides_2A: NDArray[np.float32], matrix: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Weights (T, E) of the face model's shapes that show the intensities.

    Args:
        intensities_TA: intensity 0-1 of each unit in each frame.
        sides_2A: gain of the left and right half of the face for each unit, about 1: nobody is symmetric.
        matrix: what :func:`shape_matrix` returned.
    """
    weights = np.einsum("ta,ha,hae->te", intensities_TA, sides_2A, matrix, optimize=True)
    return np.asarray(np.clip(weights, 0, 1.4), np.float32)
