"""Action units of the mini model, and their intensities read from blendshape scores.

The names and their order are those of the rendered clips. A photograph's intensity is the mean of the left and right
score of the nearest blendshape, divided by the score that strong examples reach: about its 99th to 99.9th percentile
on the training pictures. They are machine labels of one teacher (MediaPipe's face landmarker), no FACS coding. For
AU06 and AU09 the teacher has no signal, AU23 has no blendshape of its own: rendered frames alone teach those.

Shape suffixes: N pictures, A action units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamfer_builtin.render.actions import ACTION_UNITS

#: Action unit to the blendshapes that show it; the strongest counts. `{}` stands for Left and Right; the number is
#: the score of a strong example.
BLENDSHAPES: dict[str, dict[str, float]] = {
    "AU01": {"browInnerUp": 0.95},
    "AU02": {"browOuterUp{}": 0.95},
    "AU04": {"browDown{}": 0.80},
    "AU05": {"eyeWide{}": 0.45},
    "AU07": {"eyeSquint{}": 0.80},
    "AU10": {"mouthUpperUp{}": 0.80},
    "AU12": {"mouthSmile{}": 0.95},
    "AU14": {"mouthDimple{}": 0.25},
    "AU15": {"mouthFrown{}": 0.50},
    "AU16": {"mouthLowerDown{}": 0.90},
    "AU17": {"mouthShrugLower": 0.60},
    "AU18": {"mouthPucker": 0.95},
    "AU20": {"mouthStretch{}": 0.75},
    "AU22": {"mouthFunnel": 0.20},
    "AU24": {"mouthPress{}": 0.45},
    # Parted lips have no score of their own: an open jaw or a drawn lip parts them.
    "AU25": {"jawOpen": 0.35, "mouthLowerDown{}": 0.90, "mouthUpperUp{}": 0.80},
    "AU26": {"jawOpen": 0.75},
    "AU28": {"mouthRollUpper": 0.40, "mouthRollLower": 0.55},
    "AU43": {"eyeBlink{}": 0.80},
}
_SIDES = ("Left", "Right")
#: The scores that are read, by name.
BLENDSHAPE_COLUMNS = tuple(
    dict.fromkeys(shape.format(side) for shapes in BLENDSHAPES.values() for shape in shapes for side in _SIDES)
)
#: Units whose truth photographs cannot give.
RENDERED_ONLY = tuple(unit for unit in ACTION_UNITS if unit not in BLENDSHAPES)
#: An intensity of at least this is "present" where intensities have to be turned into yes and no.
PRESENT = 0.4


def units_of(scores: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Turn columns of blendshape scores, each float (N,), into intensities float32 (N, A); NaN where unknown."""
    count = len(next(iter(scores.values())))
    out = np.full((count, len(ACTION_UNITS)), np.nan, np.float32)
    for unit, shapes in BLENDSHAPES.items():
        parts = []
        for shape, strong in shapes.items():
            sides = [shape.format(side) for side in _SIDES]
            parts.append((np.asarray(scores[sides[0]]) + np.asarray(scores[sides[1]])) / (2 * strong))
        out[:, ACTION_UNITS.index(unit)] = np.clip(np.max(parts, axis=0), 0, 1)
    return out


def unit_loss(logits_NA: Tensor, intensities_NA: Tensor) -> Tensor:
    """Cross-entropy of sigmoids against intensities in 0-1, over those that are known (not NaN)."""
    known_NA = ~intensities_NA.isnan()
    losses_NA = torch.nn.functional.binary_cross_entropy_with_logits(
        logits_NA, intensities_NA.nan_to_num(), reduction="none"
    )
    return (losses_NA * known_NA).sum() / known_NA.sum().clamp(min=1)
