"""What is not a face but fools detectors: hands, bodies, printed shirts, cartoons, blank ovals, text, clocks.

Each ``draw_*`` function paints onto an RGB uint8 canvas in place, around ``centre`` (pixels) at ``size`` (pixels,
roughly the height of the thing).
"""

from __future__ import annotations

import string

import cv2
import numpy as np

from streamfer_builtin.faces.backgrounds import random_colour
from streamfer_builtin.faces.labels import FloatArray, Picture

Point = tuple[float, float]
_SKIN_TONES = np.array([[250, 215, 190], [225, 175, 140], [195, 140, 100], [140, 90, 60], [90, 58, 42]])


def skin_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """A skin tone under some light, RGB; a third of them grey, as in grey pictures."""
    tone = _SKIN_TONES[rng.integers(len(_SKIN_TONES))] * rng.uniform(0.6, 1.15) + rng.normal(size=3) * 8
    if rng.random() < 0.33:
        tone = np.full(3, tone.mean())
    red, green, blue = np.clip(tone, 0, 255)
    return float(red), float(green), float(blue)


def draw_random(canvas: Picture, rng: np.random.Generator, centre: Point, size: float) -> None:
    """Paint one distractor of a random kind."""
    kinds = [
        draw_hand,
        draw_hand,
        draw_cartoon,
        draw_cartoon,
        draw_oval,
        draw_oval,
        draw_text,
        draw_clock,
        draw_pattern,
    ]
    kinds[rng.integers(len(kinds))](canvas, rng, centre, size)


def draw_hand(canvas: Picture, rng: np.random.Generator, centre: Point, size: float) -> None:
    """A palm with up to five fingers and a forearm, shaded."""
    colour = skin_colour(rng)
    angle = rng.uniform(0, 2 * np.pi)
    palm = size * 0.27
    line = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-line[1], line[0]])
    middle = np.array(centre)
    if rng.random() < 0.6:
        _capsule(canvas, middle, middle - line * size * rng.uniform(0.6, 1.4), palm * 0.75, _shaded(colour, rng))
    cv2.ellipse(
        canvas, _whole(middle), (int(palm * 1.1) + 1, int(palm) + 1), float(np.degrees(angle)), 0, 360, colour, -1
    )
    spread = rng.uniform(0.1, 0.5)
    for finger in range(int(rng.integers(2, 6))):
        tilt = (finger - 2) * spread
        way = line * np.cos(tilt) + across * np.sin(tilt)
        start = middle + across * (finger - 2) * palm * 0.42 + line * palm * 0.6
        end = start + way * size * rng.uniform(0.12, 0.45)
        _capsule(canvas, start, end, palm * 0.2, _shaded(colour, rng))
        if rng.random() < 0.5:
            cv2.line(canvas, _whole(start), _whole(end), _shaded(colour, rng), 1, cv2.LINE_AA)


def draw_cartoon(canvas: Picture, rng: np.random.Generator, centre: Point, size: float) -> None:
    """A drawn head of an animal or toon: flat or furry oval, large eyes, muzzle, ears, perhaps a neck."""
    colour, x, y = random_colour(rng), *centre
    wide, tall = size * rng.uniform(0.3, 0.6), size * rng.uniform(0.3, 0.6)
    tilt = rng.normal() * 20
    if rng.random() < 0.5:
        _capsule(canvas, np.array(centre), np.array([x + rng.normal() * size, y + size * 1.6]), wide * 0.5, colour)
    for side in (-1, 1):
        if rng.random() < 0.7:
            ear = (int(x + side * wide * 0.7), int(y - tall * rng.uniform(0.8, 1.3)))
            axes = (int(wide * rng.uniform(0.1, 0.35)) + 1, int(tall * rng.uniform(0.2, 0.7)) + 1)
            cv2.ellipse(canvas, ear, axes, side * rng.uniform(0, 40), 0, 360, _shaded(colour, rng), -1)
    cv2.ellipse(canvas, (int(x), int(y)), (int(wide) + 1, int(tall) + 1), tilt, 0, 360, colour, -1, cv2.LINE_AA)
    gap, eye = wide * rng.uniform(0.25, 0.6), max(1, int(size * rng.uniform(0.03, 0.16)))
    height = y - tall * rng.uniform(0.0, 0.6)
    eyes = [(-1, height), (1, height)] if rng.random() < 0.8 else [(rng.choice([-1, 1]), height)]
    for side, level in eyes:
        spot = (int(x + side * gap), int(level))
        cv2.circle(canvas, spot, eye, (245, 245, 245) if rng.random() < 0.7 else (20, 20, 20), -1, cv2.LINE_AA)
        cv2.circle(canvas, spot, max(1, int(eye * rng.uniform(0.2, 0.7))), (15, 15, 15), -1, cv2.LINE_AA)
    if rng.random() < 0.7:
        muzzle = (int(x + rng.normal() * wide * 0.2), int(y + tall * rng.uniform(0.2, 0.9)))
        axes = (int(wide * rng.uniform(0.2, 0.8)) + 1, int(tall * rng.uniform(0.1, 0.6)) + 1)
        cv2.ellipse(canvas, muzzle, axes, 0, 0, 360, _shaded(colour, rng), -1, cv2.LINE_AA)
        cv2.ellipse(canvas, muzzle, (axes[0] // 2 + 1, axes[1] // 3 + 1), 0, 0, 180, (30, 10, 10), 2, cv2.LINE_AA)


def draw_oval(canvas: Picture, rng: np.random.Generator, centre: Point, size: float) -> None:
    """A skin-coloured oval without features, with soft shading and perhaps hair: a head seen from behind, a knee."""
    tall, wide = size * 0.5, size * rng.uniform(0.3, 0.5)
    layer = canvas.copy()
    if rng.random() < 0.5:
        hair = tuple(np.array(random_colour(rng)) * 0.4)
        above = (int(centre[0]), int(centre[1] - tall * 0.3))
        cv2.ellipse(layer, above, (int(wide * 1.1) + 1, int(tall) + 1), 0, 0, 360, hair, -1, cv2.LINE_AA)
    colour = skin_colour(rng)
    middle = _whole(np.array(centre))
    cv2.ellipse(layer, middle, (int(wide) + 1, int(tall) + 1), rng.normal() * 15, 0, 360, colour, -1, cv2.LINE_AA)
    shade = (int(centre[0] + wide * rng.uniform(-0.4, 0.4)), int(centre[1] + tall * rng.uniform(-0.4, 0.4)))
    axes = (int(wide * rng.uniform(0.2, 0.6)) + 1, int(tall * rng.uniform(0.2, 0.6)) + 1)
    cv2.ellipse(layer, shade, axes, 0, 0, 360, _shaded(colour, rng), -1)
    canvas[:] = cv2.GaussianBlur(layer, (0, 0), max(0.5, size / 40))


def draw_text(canvas: Picture, rng: np.random.Generator, centre: Point, size: float) -> None:
    """One to three lines of letters, as titles, signs and prints are."""
    scale = size / 60 * rng.uniform(0.4, 1.4)
    letters = list(string.ascii_letters + string.digits + "!?@&%#")
    for line in range(int(rng.integers(1, 4))):
        word = "".join(rng.choice(letters, int(rng.integers(1, 10))))
        place = (int(centre[0] - size / 2), int(centre[1] + (line - 1) * 30 * scale))
        font = int(rng.integers(0, 8))
        thickness = max(1, int(scale * rng.uniform(1, 4)))
        cv2.putText(canvas, word, place, font, scale, random_colour(rng), thickness, cv2.LINE_AA)


def draw_clock(canvas: Picture, rng: np.random.Generator, centre: Point, size: float) -> None:
    """A round thing with marks inside: clock, wheel, button, socket, plate."""
    middle, radius = _whole(np.array(centre)), max(2, int(size / 2))
    cv2.circle(canvas, middle, radius, random_colour(rng), -1, cv2.LINE_AA)
    cv2.circle(canvas, middle, radius, random_colour(rng), max(1, radius // 8), cv2.LINE_AA)
    for _ in range(int(rng.integers(2, 9))):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8) * radius
        mark = (int(middle[0] + np.cos(angle) * reach), int(middle[1] + np.sin(angle) * reach))
        if rng.random() < 0.5:
            cv2.circle(canvas, mark, max(1, radius // int(rng.integers(4, 10))), random_colour(rng), -1, cv2.LINE_AA)
        else:
            cv2.line(canvas, middle, mark, random_colour(rng), max(1, radius // 12), cv2.LINE_AA)


def draw_pattern(canvas: Picture, rng: np.random.Generator, centre: Point, size: float) -> None:
    """Two dark spots above a bar, or a random arrangement of such: the skeleton of a face without a face."""
    ground, ink = np.array(random_colour(rng)), random_colour(rng)
    half = size / 2
    corner, opposite = (int(centre[0] - half), int(centre[1] - half)), (int(centre[0] + half), int(centre[1] + half))
    if rng.random() < 0.6:
        cv2.rectangle(canvas, corner, opposite, tuple(ground), -1)
    for _ in range(int(rng.integers(2, 7))):
        place = (int(centre[0] + rng.uniform(-0.7, 0.7) * half), int(centre[1] + rng.uniform(-0.7, 0.7) * half))
        axes = (int(size * rng.uniform(0.03, 0.2)) + 1, int(size * rng.uniform(0.02, 0.1)) + 1)
        cv2.ellipse(canvas, place, axes, rng.normal() * 10, 0, 360, ink, -1, cv2.LINE_AA)


def draw_body(canvas: Picture, rng: np.random.Generator, box: FloatArray, skin: tuple[float, float, float]) -> None:
    """Neck, shoulders and chest below a face ``box`` (x1, y1, x2, y2), the shirt plain, striped or printed."""
    x1, y1, x2, y2 = (float(value) for value in box)
    wide, tall, middle = x2 - x1, y2 - y1, (x1 + x2) / 2
    neck = np.array([[middle - wide * 0.3, y2 - tall * 0.25], [middle + wide * 0.3, y2 - tall * 0.25],
                     [middle + wide * 0.38, y2 + tall * 0.45], [middle - wide * 0.38, y2 + tall * 0.45]])  # fmt: skip
    shade = tuple(np.array(skin) * rng.uniform(0.6, 0.95))
    cv2.fillPoly(canvas, [neck.astype(np.int32)], shade, cv2.LINE_AA)
    shirt, shoulder = random_colour(rng), wide * rng.uniform(0.9, 1.5)
    top = y2 + tall * rng.uniform(0.12, 0.3)
    body = np.array([[middle - wide * 0.4, top], [middle + wide * 0.4, top], [middle + shoulder, top + tall * 0.45],
                     [middle + shoulder * 1.1, top + tall * 3], [middle - shoulder * 1.1, top + tall * 3],
                     [middle - shoulder, top + tall * 0.45]])  # fmt: skip
    cv2.fillPoly(canvas, [body.astype(np.int32)], shirt, cv2.LINE_AA)
    if rng.random() < 0.5:
        collar = np.array([[middle - wide * 0.3, top], [middle + wide * 0.3, top], [middle, top + tall * 0.5]])
        cv2.fillPoly(canvas, [collar.astype(np.int32)], shade if rng.random() < 0.5 else random_colour(rng))
    if rng.random() < 0.45:
        chest = (middle + rng.normal() * wide * 0.1, top + tall * rng.uniform(0.7, 1.4))
        painters = [draw_text, draw_cartoon, draw_pattern, draw_clock]
        painters[rng.integers(len(painters))](canvas, rng, chest, wide * rng.uniform(0.4, 1.0))


def draw_hair(canvas: Picture, rng: np.random.Generator, box: FloatArray) -> None:
    """A mass of hair behind a face ``box``: cap, bob or long hair, drawn before the face is pasted."""
    x1, y1, x2, y2 = (float(value) for value in box)
    wide, tall, middle = x2 - x1, y2 - y1, (x1 + x2) / 2
    colour = np.array([[25, 20, 18], [70, 45, 28], [120, 80, 45], [200, 165, 110], [160, 160, 160]])[rng.integers(5)]
    shade = tuple(colour * rng.uniform(0.6, 1.2))
    reach = rng.uniform(0.55, 0.78)
    centre = (int(middle), int(y1 + tall * 0.32))
    cv2.ellipse(canvas, centre, (int(wide * reach) + 1, int(tall * rng.uniform(0.45, 0.6)) + 1), 0, 0, 360, shade, -1)
    if rng.random() < 0.4:
        low = y2 + tall * rng.uniform(-0.1, 0.7)
        corners = (int(middle - wide * reach), centre[1]), (int(middle + wide * reach), int(low))
        cv2.rectangle(canvas, *corners, shade, -1)


def _capsule(
    canvas: Picture, start: np.ndarray, end: np.ndarray, radius: float, colour: tuple[float, float, float]
) -> None:
    cv2.line(canvas, _whole(start), _whole(end), colour, max(1, int(radius * 2)), cv2.LINE_AA)


def _shaded(colour: tuple[float, float, float], rng: np.random.Generator) -> tuple[float, float, float]:
    factor = rng.uniform(0.65, 1.15)
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def _whole(point: np.ndarray) -> tuple[int, int]:
    return int(point[0]), int(point[1])
