"""Stones, coins, seeds and bubbles: round things side by side, lit from one side, none of which is a face.

Pebbles of a dozen pixels, light above and dark below with dark gaps between them, look like faces in a crowd to a
detector that has seen few of them.
"""

from __future__ import annotations

import cv2
import numpy as np

from streamfer_builtin.faces.labels import Picture

_MOST = 1500


def stones(side: int, rng: np.random.Generator) -> Picture:
    """A square picture full of them, RGB uint8: 6 to 60 pixels each, round or broken, in any light."""
    size = float(np.exp(rng.uniform(np.log(6), np.log(60))))
    ground = rng.uniform(0, 130) * np.array([1.0, rng.uniform(0.8, 1.0), rng.uniform(0.6, 1.0)])
    canvas = np.broadcast_to(ground.astype(np.float32), (side, side, 3)).copy()
    light, spread, warmth = rng.uniform(70, 220), rng.uniform(5, 50), rng.uniform(0.6, 1.1)
    towards, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.6)
    count, corners = int(min(_MOST, rng.uniform(0.7, 3) * (side / size) ** 2)), int(rng.choice([0, 5, 6, 7, 8]))
    for x, y in rng.uniform(-size / 2, side + size / 2, (count, 2)):
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) if corners else np.linspace(0, 2 * np.pi, 16)
        rim = np.column_stack([np.cos(angles), np.sin(angles)]) * size / 2 * np.exp(rng.normal(0, 0.25, 2))
        turned, base = rim @ cv2.getRotationMatrix2D((0, 0), rng.uniform(0, 360), 1)[:, :2].T, rng.normal(light, spread)
        # From its dark side to its light one, in a few steps.
        for step in np.linspace(0, 1, 4):
            shade = np.clip(base * (1 - depth * (1 - step)), 0, 255)
            away = 0.17 * step * size * np.array([np.cos(towards), np.sin(towards)])
            colour = (float(shade), float(shade * (0.5 + warmth / 2)), float(shade * warmth))
            outline = np.round(8 * ((1 - 0.5 * step) * turned + away + [x, y])).astype(np.int32)
            cv2.fillConvexPoly(canvas, outline, colour, cv2.LINE_AA, 3)
    blurred = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.3, 0.08 * size + 0.4)))
    return np.asarray(np.clip(blurred + rng.normal(0, rng.uniform(0, 12), (side, side, 1)), 0, 255), np.uint8)
