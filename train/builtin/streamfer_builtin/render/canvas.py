"""The canvas a person's skin is painted on: the mean face seen from the front, `SCALE` pixels to a centimetre.

Places are given in the model's centimetres, x to the right of the picture and y up. Every layer is float32
(`SIDE`, `SIDE`), 0-1.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SCALE = 14
"""Pixels to a centimetre."""
REACH = 13.0
"""Centimetres from the middle of the canvas to its edges."""
SIDE = int(2 * REACH * SCALE)
_SUB = 4
"""Bits of sub-pixel places given to OpenCV."""


class Canvas:
    """Layers of one person's skin, drawn with that person's random numbers."""

    def __init__(self, landmarks_683: FloatArray, rng: np.random.Generator) -> None:
        self._points = landmarks_683[:, :2].astype(np.float64)
        self._rng = rng

    def skin(self, tone: float, hair: float) -> FloatArray:
        """Reflectance of the skin with everything that grows or is worn on it."""
        rng = self._rng
        skin = tone * (1 + self._blotches() + self._grain(rng.uniform(0.0, 0.03)))
        skin = skin * (1 - self._hollows())
        skin = _mixed(skin, skin * rng.uniform(0.55, 0.95), self._cheeks() * rng.uniform(0, 0.5))
        lips = self._lips()
        skin = _mixed(skin, tone * rng.uniform(0.25, 0.75), lips)
        if rng.random() < 0.3:
            skin = _mixed(skin, min(hair, tone) * 0.8 + 0.1 * tone, self._beard() * (1 - lips))
        skin = _mixed(skin, min(hair, tone * 0.7) * 0.7, self._brows())
        skin = _mixed(skin, tone * 0.06, self._lid_lines())
        if rng.random() < 0.1:
            skin = _mixed(skin, rng.choice([0.01, 0.05, 0.3]), self._glasses())
        return np.clip(skin, 0.004, 0.95).astype(np.float32)

    def creases(self) -> list[FloatArray]:
        """Layers that action units deepen, in the order of the table in :mod:`.appearance`."""
        corner, wing = self._points[54], self._points[35]
        eye = self._points[45]
        shift = self._rng.normal(size=2) * 0.15
        forehead = [[(x, y + 0.25 * np.sin(x * 0.6 + y)) for x in np.linspace(-4, 4, 17)] for y in (7.6, 8.7, 9.8)]
        glabella = [[(side * 0.55, 5.1), (side * 0.75, 6.0), (side * 0.6, 6.9)] for side in (-1, 1)]
        nose = [[(side * 0.25, y), (side * 1.15, y + 0.45)] for side in (-1, 1) for y in (2.6, 3.2, 3.8)]
        fold = [(wing[0] + 0.5, wing[1] + 0.9), (2.7, -1.4), (3.3, -2.7), (corner[0] + 0.75, corner[1] - 0.4)]
        crow = [[(eye[0] + 0.35, eye[1] + dy * 0.3), (eye[0] + 1.5, eye[1] + dy)] for dy in (0.7, 0.1, -0.6)]
        lids = [[(1.9, 2.75), (2.7, 2.25), (3.7, 2.25), (4.5, 2.7)], [(2.0, 2.2), (3.0, 1.65), (4.3, 1.9)]]
        chin = [[(x, y)] * 2 for x in np.linspace(-1.2, 1.2, 5) for y in (-5.7, -6.3)]
        mouth = [[(corner[0] + 0.3, corner[1] + 0.5), (corner[0] + 0.55, corner[1] - 0.2), (corner[0] + 0.3, -4.9)]]
        return [
            self._lines(_moved(forehead, shift), 0.16, 0.10),
            self._lines(_moved(glabella, shift), 0.22, 0.14),
            self._lines(nose, 0.16, 0.10),
            self._lines(_both_sides([fold]), 0.26, 0.22),
            self._lines(_both_sides(crow), 0.12, 0.10),
            self._lines(_both_sides(lids), 0.16, 0.14),
            self._lines(chin, 0.30, 0.14) * 0.8,
            self._lines(_both_sides(mouth), 0.22, 0.14),
        ]

    def looked_up(self, layer: FloatArray, places: NDArray[np.floating]) -> FloatArray:
        """Values of a layer at places (S, 2 or more), bilinear."""
        columns = ((places[:, 0] + REACH) * SCALE).astype(np.float32)
        rows = ((REACH - places[:, 1]) * SCALE).astype(np.float32)
        # OpenCV remaps at most 32,767 places along a side.
        wide = 256
        padding = -len(columns) % wide
        grid = [np.pad(axis, (0, padding)).reshape(-1, wide) for axis in (columns, rows)]
        values = cv2.remap(layer, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(values.reshape(-1)[: len(columns)], np.float32)

    def _blotches(self) -> FloatArray:
        coarse = self._rng.normal(size=(9, 9)).astype(np.float32) * self._rng.uniform(0.02, 0.07)
        return np.asarray(cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.float32)

    def _grain(self, size: float) -> FloatArray:
        noise = self._rng.standard_normal((SIDE // 2, SIDE // 2), np.float32) * np.float32(size)
        return np.asarray(cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.float32)

    def _hollows(self) -> FloatArray:
        """Where little light comes: nostrils, the wings of the nose, below the lower lip, the sockets of the eyes."""
        points = self._points
        nostrils = self._spots([points[32] + [-0.1, 0.15], points[34] + [0.1, 0.15]], (0.34, 0.2), 0.06) * 0.75
        wings = self._lines(_both_sides([[(1.75, -0.2), (1.7, -0.9), (1.3, -1.2)]]), 0.2, 0.15) * 0.35
        below_lip = self._spots([points[57] - [0, 0.5]], (1.2, 0.25), 0.25) * 0.25
        sockets = self._spots([(-1.75, 4.1), (1.75, 4.1)], (0.6, 0.75), 0.35) * self._rng.uniform(0.1, 0.45)
        circles = self._spots([(-3.0, 2.3), (3.0, 2.3)], (1.2, 0.35), 0.25) * self._rng.uniform(0, 0.3)
        lids = self._spots([(-3.2, 4.35), (3.2, 4.35)], (1.4, 0.32), 0.18) * self._rng.uniform(0.05, 0.35)
        return np.asarray(np.maximum.reduce([nostrils, wings, below_lip, sockets, circles, lids]), np.float32)

    def _cheeks(self) -> FloatArray:
        return self._spots([(-4.4, 0.2), (4.4, 0.2)], (1.5, 1.2), 0.9)

    def _lips(self) -> FloatArray:
        outer, inner = self._points[48:60], self._points[60:68]
        layer = np.zeros((SIDE, SIDE), np.float32)
        cv2.fillPoly(layer, [_pixels(outer)], 1.0, cv2.LINE_AA, _SUB)
        seam = self._lines([[*inner[:5]]], 0.14, 0.08)
        strength = self._rng.uniform(0.55, 1.0)
        soft = np.asarray(cv2.GaussianBlur(layer, (0, 0), 0.09 * SCALE), np.float32)
        return np.asarray(np.maximum(soft * strength, seam), np.float32)

    def _brows(self) -> FloatArray:
        rng = self._rng
        thick, rise, lean = rng.uniform(0.45, 1.05), rng.normal() * 0.15, rng.normal() * 0.06
        inner = rng.uniform(-0.25, 0.4)
        brow = self._points[22:27].copy()
        brow[0, 0] += inner
        brow[:, 1] += rise - 0.1 + lean * (brow[:, 0] - 3)
        dense = np.stack([np.interp(np.linspace(0, 4, 13), range(5), brow[:, axis]) for axis in (0, 1)], axis=1)
        layer = np.zeros((SIDE, SIDE), np.float32)
        for side in (-1, 1):
            for k, ((x1, y1), (x2, y2)) in enumerate(pairwise(dense)):
                width = thick * (1.0 - 0.6 * (k / 11) ** 2) * (0.8 if k == 0 else 1)
                ends = _pixels(np.array([(side * x1, y1), (side * x2, y2)]))
                cv2.line(layer, ends[0, 0], ends[1, 0], 1.0, max(1, round(width * SCALE)), cv2.LINE_AA, _SUB)
        soft = np.asarray(cv2.GaussianBlur(layer, (0, 0), 0.12 * SCALE), np.float32)
        hairs = 1 + self._grain(0.25)
        return np.asarray(np.clip(soft * hairs * 1.2, 0, 1) * rng.uniform(0.65, 1.0), np.float32)

    def _lid_lines(self) -> FloatArray:
        upper = [[*self._points[36:40]], [*self._points[42:46]]]
        lower = [[*self._points[[39, 40, 41, 36]]], [*self._points[[45, 46, 47, 42]]]]
        dark = self._lines(_moved(upper, np.array([0, 0.04])), 0.12, 0.06) * self._rng.uniform(0.5, 1.0)
        fine = self._lines(lower, 0.08, 0.06) * self._rng.uniform(0.1, 0.5)
        return np.asarray(np.maximum(dark, fine), np.float32)

    def _beard(self) -> FloatArray:
        rng = self._rng
        jaw = [*self._points[3:14]]
        chin = self._lines([jaw], 3.0, 0.5)
        chin = np.maximum(chin, self._spots([(0, -6)], (2.6, 1.6), 0.4) * (rng.random() < 0.8))
        moustache = self._lines([[(-2.6, -3.0), (-1.0, -1.9), (1.0, -1.9), (2.6, -3.0)]], 0.9, 0.2)
        kind = rng.integers(3)
        layer = [np.maximum(chin, moustache), moustache, np.maximum(moustache, chin * 0.6)][kind]
        dense = np.clip(layer * (1 + self._grain(0.3)), 0, 1)
        return np.asarray(dense * rng.uniform(0.15, 0.9), np.float32)

    def _glasses(self) -> FloatArray:
        layer = np.zeros((SIDE, SIDE), np.float32)
        width, height = self._rng.uniform(2.0, 2.6), self._rng.uniform(1.2, 2.1)
        thick = max(1, round(self._rng.uniform(0.12, 0.35) * SCALE))
        for x in (-3.15, 3.15):
            middle = _pixels(np.array([(x, 3.1)]))[0, 0]
            axes = (round(width * SCALE) << _SUB, round(height * SCALE) << _SUB)
            cv2.ellipse(layer, middle, axes, 0, 0, 360, 1.0, thick, cv2.LINE_AA, _SUB)
        bridge = _pixels(np.array([(-0.7, 3.4), (0.7, 3.4)]))
        cv2.line(layer, bridge[0, 0], bridge[1, 0], 1.0, thick, cv2.LINE_AA, _SUB)
        return layer

    def _lines(self, lines: list[list[tuple[float, float]]], width: float, blur: float) -> FloatArray:
        layer = np.zeros((SIDE, SIDE), np.float32)
        for line in lines:
            points = _pixels(np.asarray(line, np.float64))
            cv2.polylines(layer, [points], False, 1.0, max(1, round(width * SCALE)), cv2.LINE_AA, _SUB)
        return np.asarray(cv2.GaussianBlur(layer, (0, 0), blur * SCALE), np.float32)

    def _spots(self, places: list[tuple[float, float]], axes: tuple[float, float], blur: float) -> FloatArray:
        layer = np.zeros((SIDE, SIDE), np.float32)
        radii = (round(axes[0] * SCALE * 2**_SUB), round(axes[1] * SCALE * 2**_SUB))
        for place in places:
            middle = _pixels(np.asarray([place], np.float64))[0, 0]
            cv2.ellipse(layer, middle, radii, 0, 0, 360, 1.0, -1, cv2.LINE_AA, _SUB)
        return np.asarray(cv2.GaussianBlur(layer, (0, 0), blur * SCALE), np.float32)


def _pixels(places: NDArray[np.float64]) -> NDArray[np.int32]:
    """Places (K, 2) as OpenCV's fixed-point contour (K, 1, 2)."""
    scaled = np.stack([(places[:, 0] + REACH) * SCALE, (REACH - places[:, 1]) * SCALE], axis=1)
    return np.asarray(np.round(scaled * 2**_SUB)[:, None], np.int32)


def _both_sides(lines: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    return [*lines, *([(-x, y) for x, y in line] for line in lines)]


def _moved(lines: list[list[tuple[float, float]]], shift: NDArray[np.floating]) -> list[list[tuple[float, float]]]:
    return [[(x + shift[0], y + shift[1]) for x, y in line] for line in lines]


def _mixed(base: NDArray[np.floating], other: NDArray[np.floating] | float, weight: FloatArray) -> FloatArray:
    return np.asarray(base * (1 - weight) + other * weight, np.float32)
