"""What hides a part of a face: hats, dark glasses, masks, hair, a hand or the edge of something in front."""

from __future__ import annotations

import cv2
import numpy as np

from streamfer_builtin.faces.labels import Labels, Picture

_SHARE = 0.3


def occlude(picture: Picture, labels: Labels, rng: np.random.Generator) -> None:
    """Draw something in front of some of the faces, in place; nothing hides more than about half a face."""
    sizes = labels.sizes()
    for face in range(len(labels)):
        if labels.ignored[face] or sizes[face] < 14 or rng.random() > _SHARE:
            continue
        kind = rng.random()
        if kind < 0.4:
            _hat(picture, labels, face, rng)
        elif kind < 0.55:
            _glasses(picture, labels, face, rng)
        elif kind < 0.65:
            _mask(picture, labels, face, rng)
        else:
            _patch(picture, labels, face, rng)


def _hat(picture: Picture, labels: Labels, face: int, rng: np.random.Generator) -> None:
    """A crown above the brow and, mostly, a brim; turned with the head."""
    box, points = labels.boxes[face], labels.landmarks[face]
    wide, tall = box[2:] - box[:2]
    across = points[1] - points[0]
    tilt = float(np.degrees(np.arctan2(across[1], across[0]))) if float(np.hypot(*across)) > 0.2 * wide else 0.0
    angle = np.radians(tilt)
    up = np.array([np.sin(angle), -np.cos(angle)])
    brow = (points[0] + points[1]) / 2 + up * tall * rng.uniform(0.14, 0.24)
    colour = _colour(rng)
    crown = brow + up * tall * 0.2
    axes = (int(wide * rng.uniform(0.5, 0.72)) + 1, int(tall * rng.uniform(0.28, 0.5)) + 1)
    cv2.ellipse(picture, _at(crown), axes, tilt, 180, 360, colour, -1, cv2.LINE_AA)
    reach = (axes[0], max(1, int(tall * rng.uniform(0.1, 0.22))))
    cv2.ellipse(picture, _at(crown), reach, tilt, 0, 360, colour, -1, cv2.LINE_AA)
    if rng.random() < 0.7:
        shade = tuple(int(value * rng.uniform(0.5, 1.0)) for value in colour)
        brim = (int(wide * rng.uniform(0.6, 1.1)) + 1, max(1, int(tall * rng.uniform(0.05, 0.14))))
        cv2.ellipse(picture, _at(brow), brim, tilt + rng.uniform(-8, 8), 0, 360, shade, -1, cv2.LINE_AA)


def _glasses(picture: Picture, labels: Labels, face: int, rng: np.random.Generator) -> None:
    eyes = labels.landmarks[face][:2]
    across = eyes[1] - eyes[0]
    gap, tilt = float(np.hypot(*across)), float(np.degrees(np.arctan2(across[1], across[0])))
    dark = tuple(int(value) for value in rng.uniform(0, 70, size=3))
    axes = (int(gap * rng.uniform(0.28, 0.46)) + 1, int(gap * rng.uniform(0.2, 0.36)) + 1)
    for eye in eyes:
        cv2.ellipse(picture, _at(eye), axes, tilt, 0, 360, dark, -1, cv2.LINE_AA)
    cv2.line(picture, _at(eyes[0]), _at(eyes[1]), dark, max(1, int(gap / 12)))


def _mask(picture: Picture, labels: Labels, face: int, rng: np.random.Generator) -> None:
    points, size = labels.landmarks[face], float(labels.sizes()[face])
    mouth = (points[3] + points[4]) / 2
    axes = (int(size * rng.uniform(0.3, 0.45)) + 1, int(size * rng.uniform(0.2, 0.32)) + 1)
    cv2.ellipse(picture, _at(mouth), axes, 0, 0, 360, _colour(rng), -1, cv2.LINE_AA)


def _patch(picture: Picture, labels: Labels, face: int, rng: np.random.Generator) -> None:
    """A piece of the same picture, or a flat colour, over one side of the face."""
    box = labels.boxes[face]
    wide, tall = (box[2:] - box[:2]).tolist()
    share = rng.uniform(0.12, 0.42)
    side = int(rng.integers(4))
    x1, y1, x2, y2 = (float(value) for value in box)
    if side < 2:
        x1, x2 = (x1 - 0.3 * wide, x1 + share * wide) if side == 0 else (x2 - share * wide, x2 + 0.3 * wide)
        y1, y2 = y1 - rng.uniform(0, 0.4) * tall, y2 + rng.uniform(0, 0.4) * tall
    else:
        y1, y2 = (y1 - 0.3 * tall, y1 + share * tall) if side == 2 else (y2 - share * tall, y2 + 0.3 * tall)
        x1, x2 = x1 - rng.uniform(0, 0.3) * wide, x2 + rng.uniform(0, 0.3) * wide
    height, width = picture.shape[:2]
    left, right = (int(np.clip(value, 0, width)) for value in (x1, x2))
    top, bottom = (int(np.clip(value, 0, height)) for value in (y1, y2))
    if right - left < 2 or bottom - top < 2:
        return
    if rng.random() < 0.5:
        picture[top:bottom, left:right] = _colour(rng)
        return
    y, x = int(rng.integers(height - (bottom - top) + 1)), int(rng.integers(width - (right - left) + 1))
    picture[top:bottom, left:right] = picture[y : y + bottom - top, x : x + right - left][:, ::-1].copy()


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    base = rng.uniform(0, 255)
    red, green, blue = np.clip(base + rng.normal(size=3) * rng.choice([8, 60]), 0, 255)
    return int(red), int(green), int(blue)


def _at(point: np.ndarray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
