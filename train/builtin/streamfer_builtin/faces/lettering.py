"""What people lay over pictures: titles, subtitles, a camera's clock, marks and buttons. None of it is a face.

Round things of a warm colour with a dark rim, such as the dot of a drawn letter, look like faces in their hair to a
detector that has only seen photographs. Very small ones are not drawn in such colours: there a face shows no more.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer_builtin.faces.labels import FloatArray, Labels, Picture

_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_PLAIN,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)
_LETTERS = np.array(list("aabcdeeefghiiijjklmnooopqrsttuvwxyzABCDEGOPQRS0123456890!?&@:;.-%"))
_TRIES = 6
_WARM = 18.0
"""Least height in pixels of a disc in the colours of faces."""


def letter(picture: Picture, labels: Labels, rng: np.random.Generator) -> None:
    """Write or draw one to four things over ``picture``, in place, beside its faces."""
    for _ in range(int(rng.integers(1, 5))):
        mask, edge = _badge(picture, rng) if rng.random() < 0.5 else _line(picture, rng)
        colours = _warm(rng) if rng.random() < 0.6 and mask.shape[0] >= _WARM else _any(rng)
        for _ in range(_TRIES):
            left = int(rng.integers(-mask.shape[1] // 4, max(1, picture.shape[1] - mask.shape[1] // 2)))
            top = int(rng.integers(-mask.shape[0] // 4, max(1, picture.shape[0] - mask.shape[0] // 2)))
            if not _meets(labels.boxes, left, top, mask.shape):
                _lay(picture, mask, edge, (left, top), colours, rng)
                break


def _line(picture: Picture, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A word or a line in one of OpenCV's fonts: the letters' shape, and the same with an outline."""
    high = float(np.exp(rng.uniform(np.log(8), np.log(0.35 * picture.shape[0]))))
    font, scale = _FONTS[int(rng.integers(len(_FONTS)))], high / 22
    most = max(2, min(24, int(1.6 * picture.shape[1] / high)))
    text = "".join(rng.choice(_LETTERS, size=int(rng.integers(1, most))))
    if rng.random() < 0.25:
        text = f"{rng.integers(24):02}:{rng.integers(60):02}:{rng.integers(60):02}"
    thick = max(1, round(high * rng.uniform(0.04, 0.24)))
    border = max(1, round(high * rng.uniform(0.03, 0.14)))
    (wide, tall), below = cv2.getTextSize(text, font, scale, thick)
    around = thick + 2 * border + 2
    shape = (tall + below + 2 * around, wide + 2 * around)
    inner, outer = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    at = (around, tall + around)
    cv2.putText(inner, text, at, font, scale, 255, thick, cv2.LINE_AA)
    cv2.putText(outer, text, at, font, scale, 255, thick + 2 * border, cv2.LINE_AA)
    return inner, outer


def _badge(picture: Picture, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A disc, or a box, within a rim: its inside, and the whole of it."""
    high = float(np.exp(rng.uniform(np.log(10), np.log(0.4 * picture.shape[0]))))
    wide, rim = high * rng.uniform(0.6, 1.2), rng.uniform(0.08, 0.45)
    shape = (int(high) + 5, int(wide) + 5)
    inner, outer = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    middle, turn = (shape[1] // 2, shape[0] // 2), float(rng.uniform(-25, 25))
    for mask, size in ((outer, 1.0), (inner, 1.0 - rim)):
        axes = (max(1, int(wide * size / 2)), max(1, int(high * size / 2)))
        if rng.random() < 0.8:
            cv2.ellipse(mask, middle, axes, turn, 0, 360, 255, cv2.FILLED, cv2.LINE_AA)
        else:
            corner, other = (middle[0] - axes[0], middle[1] - axes[1]), (middle[0] + axes[0], middle[1] + axes[1])
            cv2.rectangle(mask, corner, other, 255, cv2.FILLED)
    return inner, outer


def _lay(
    picture: Picture,
    inner: NDArray[np.uint8],
    outer: NDArray[np.uint8],
    at: tuple[int, int],
    colours: FloatArray,
    rng: np.random.Generator,
) -> None:
    """Blend the outline in one colour and the inside in a gradient, or two tones, over the picture."""
    left, top = at
    x1, y1 = max(0, left), max(0, top)
    x2, y2 = min(picture.shape[1], left + inner.shape[1]), min(picture.shape[0], top + inner.shape[0])
    if x2 <= x1 or y2 <= y1:
        return
    part = picture[y1:y2, x1:x2].astype(np.float32)
    within = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
    share = rng.uniform(0.75, 1.0) / 255
    upper, lower, rim = colours
    down = np.linspace(0, 1, inner.shape[0], dtype=np.float32)[:, None]
    if rng.random() < 0.5:
        down = (down > rng.uniform(0.3, 0.7)).astype(np.float32)
    fill = (upper * (1 - down) + lower * down)[:, None][within[0]]
    if rng.random() < 0.75:
        part += (rim - part) * (outer[within] * share)[..., None]
    part += (fill - part) * (inner[within] * share)[..., None]
    picture[y1:y2, x1:x2] = part.round().astype(np.uint8)


def _any(rng: np.random.Generator) -> FloatArray:
    """Upper part, lower part and rim (RGB) in any colours; the parts often in shades of one."""
    colours = rng.uniform(0, 255, size=(3, 3))
    if rng.random() < 0.5:
        colours[1] = np.clip(colours[0] + rng.normal(scale=40), 0, 255)
    return colours.astype(np.float32)


def _warm(rng: np.random.Generator) -> FloatArray:
    """The same in the colours of skin, wood and brass, with a dark rim."""
    light = rng.uniform(80, 255)
    upper = light * np.array([1.0, rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.8)])
    lower = np.clip(upper * rng.uniform(0.6, 1.2), 0, 255)
    return np.stack([upper, lower, upper * rng.uniform(0.05, 0.6)]).astype(np.float32)


def _meets(boxes: FloatArray, left: int, top: int, shape: tuple[int, ...]) -> bool:
    """Whether a mark at this place would touch a face."""
    reach = np.array([left + shape[1], top + shape[0]])
    return bool(((boxes[:, :2] < reach) & (boxes[:, 2:] > [left, top])).all(axis=1).any())
