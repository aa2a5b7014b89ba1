"""Backgrounds without faces: gradients, noise, rendered walls and rooms, and scikit-image's packaged pictures.

Every function returns RGB uint8 of the asked height and width and draws only from the generator it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

TRAINING_PICTURES = (
    "brick", "grass", "gravel", "chelsea", "coins", "page", "text", "motorcycle_left", "clock_motion", "horse",
    "hubble_deep_field", "retina", "moon", "color", "logo", "chessboard_GRAY", "cell", "ihc",
)  # fmt: skip
"""scikit-image's packaged pictures to train on. Left out: the astronaut and the cameraman (people)."""
HELD_OUT_PICTURES = ("coffee", "rocket", "motorcycle_right")
"""Packaged pictures that only the validation split may show."""


def random_background(rng: np.random.Generator, height: int, width: int, *, held_out: bool = False) -> Picture:
    """One background of a random kind; with ``held_out`` photographs come from the validation set's pictures."""
    if rng.random() < 0.30:
        return packaged(rng, height, width, HELD_OUT_PICTURES if held_out else TRAINING_PICTURES)
    kinds: list[Callable[[np.random.Generator, int, int], Picture]] = [
        gradient, clouds, brickwork, room, room, stripes, shelf, facade, blobs
    ]  # fmt: skip
    return kinds[rng.integers(len(kinds))](rng, height, width)


def random_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """An RGB colour, more often muted than vivid."""
    grey = rng.uniform(10, 245)
    spread = rng.choice([8.0, 30.0, 90.0])
    red, green, blue = np.clip(grey + rng.normal(size=3) * spread, 0, 255)
    return float(red), float(green), float(blue)


def gradient(rng: np.random.Generator, height: int, width: int) -> Picture:
    """A linear or radial blend of two colours."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        ramp = rows / height * np.sin(angle) + columns / width * np.cos(angle)
    else:
        ramp = np.hypot(rows / height - rng.random(), columns / width - rng.random())
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
    first, second = np.array(random_colour(rng)), np.array(random_colour(rng))
    blend = first * (1 - ramp[..., None]) + second * ramp[..., None]
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(0, 6))
    return _finished(blend + grain)


def clouds(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Noise of several octaves in two or three colours: foliage, plaster, smoke, out-of-focus scenery."""
    field = np.zeros((height, width, 3), np.float32)
    persistence = rng.uniform(0.4, 0.9)
    channels = 3 if rng.random() < 0.3 else 1
    for octave in range(1, 7):
        cells = 2**octave
        grid = rng.normal(size=(cells + 1, cells + 1, channels)).astype(np.float32)
        layer = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1)
        field += layer * persistence**octave
    field /= np.abs(field).max() + 1e-6
    base, tint = np.array(random_colour(rng)), np.array(random_colour(rng))
    return _finished(base + (tint - base) * (field + 1) / 2 + field * rng.uniform(0, 80))


def brickwork(rng: np.random.Generator, height: int, width: int) -> Picture:
    """A brick wall seen frontally or askew; brickwork is known to look like faces to detectors."""
    brick_height, ratio = rng.uniform(5, 36), rng.uniform(1.6, 3.4)
    mortar = max(1, round(brick_height * rng.uniform(0.06, 0.2)))
    side = int(max(height, width) * 1.5)
    picture = np.empty((side, side, 3), np.float32)
    picture[:] = random_colour(rng)
    colour = np.array(random_colour(rng) if rng.random() < 0.4 else [150, 80, 60]) * rng.uniform(0.6, 1.3)
    varied = rng.uniform(0.03, 0.3)
    for row in range(int(side / brick_height) + 1):
        top = int(row * brick_height)
        offset = (row % 2) * brick_height * ratio / 2
        for column in range(-1, int(side / (brick_height * ratio)) + 1):
            left = int(column * brick_height * ratio + offset)
            right = int(left + brick_height * ratio - mortar)
            shade = colour * (1 + rng.normal() * varied)
            picture[top : max(int(top + brick_height - mortar), top + 1), max(left, 0) : max(right, 0)] = shade
    picture += rng.standard_normal((side, side, 1), dtype=np.float32) * np.float32(rng.uniform(0, 14))
    return _askew(_finished(picture), rng, height, width)


def stripes(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Stripes, checks or dots: cloth, tiles, blinds, curtains."""
    side = int(max(height, width) * 1.5)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    period = rng.uniform(4, 60)
    waves = [np.sin(columns * 2 * np.pi / period), np.sin(rows * 2 * np.pi / (period * rng.uniform(0.5, 2)))]
    pattern = [waves[0], waves[0] * waves[1], np.maximum(*waves)][rng.integers(3)]
    pattern = np.clip(pattern * rng.choice([0.5, 2.0, 20.0]), -1, 1)[..., None]
    first, second = np.array(random_colour(rng)), np.array(random_colour(rng))
    return _askew(_finished((first + second) / 2 + (first - second) / 2 * pattern), rng, height, width)


def shelf(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Book shelves: rows of upright coloured rectangles with bands."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = random_colour(rng)
    board = int(rng.uniform(24, 100))
    for top in range(int(rng.uniform(-board, 0)), height, board):
        left = 0
        while left < width:
            thick, tall = int(rng.uniform(3, 22)), int(board * rng.uniform(0.55, 0.95))
            corner = (left, top + board - tall)
            cv2.rectangle(picture, corner, (left + thick, top + board - 4), random_colour(rng), -1)
            if rng.random() < 0.5:
                band = corner[1] + int(tall * rng.uniform(0.1, 0.8))
                cv2.rectangle(picture, (left, band), (left + thick, band + 4), random_colour(rng), -1)
            left += thick + int(rng.integers(0, 3))
    return picture


def facade(rng: np.random.Generator, height: int, width: int) -> Picture:
    """A building front: a grid of windows and doors, scaffolding lines, sky above."""
    picture = gradient(rng, height, width)
    top = int(height * rng.uniform(-0.1, 0.4))
    cv2.rectangle(picture, (0, top), (width, height), random_colour(rng), -1)
    wide, tall = rng.uniform(14, 70, size=2)
    glass, frame = random_colour(rng), random_colour(rng)
    for row in range(int(height / tall) + 1):
        for column in range(int(width / wide) + 1):
            if rng.random() < 0.1:
                continue
            x, y = int((column + 0.2) * wide), int(top + (row + 0.2) * tall)
            corner = (int(x + wide * 0.55), int(y + tall * 0.6))
            cv2.rectangle(picture, (x, y), corner, glass, -1)
            cv2.rectangle(picture, (x, y), corner, frame, max(1, int(wide / 16)))
    for _ in range(rng.integers(0, 9)):
        ends = rng.uniform(0, [width, height], size=(2, 2)).astype(int)
        cv2.line(picture, ends[0].tolist(), ends[1].tolist(), random_colour(rng), int(rng.integers(1, 5)))
    return _askew(picture, rng, height, width)


def room(rng: np.random.Generator, height: int, width: int) -> Picture:
    """A room: wall, floor, door or window, framed pictures without people, a lamp, furniture."""
    picture = gradient(rng, height, width)
    floor = int(height * rng.uniform(0.55, 1.0))
    texture = [clouds, stripes, gradient][rng.integers(3)](rng, height, width)
    picture[floor:] = texture[floor:]
    for _ in range(rng.integers(1, 8)):
        wide, tall = rng.uniform(0.06, 0.5, size=2) * [width, height]
        x, y = rng.uniform(-0.1, 1, size=2) * [width, height]
        corner, opposite = (int(x), int(y)), (int(x + wide), int(y + tall))
        kind = rng.random()
        if kind < 0.6:
            cv2.rectangle(picture, corner, opposite, random_colour(rng), -1)
            cv2.rectangle(picture, corner, opposite, random_colour(rng), int(rng.integers(1, 6)))
        elif kind < 0.8:
            cv2.ellipse(picture, corner, (int(wide / 2), int(tall / 2)), 0, 0, 360, random_colour(rng), -1)
        else:
            cv2.line(picture, corner, opposite, random_colour(rng), int(rng.integers(1, 12)))
    if rng.random() < 0.5:
        sigma = rng.uniform(0.5, 5)
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)
    return picture


def blobs(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Overlapping soft discs: bokeh, foliage, crowds out of focus."""
    picture = gradient(rng, height, width)
    for _ in range(rng.integers(10, 90)):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        radius = int(np.exp(rng.uniform(np.log(3), np.log(40))))
        cv2.circle(picture, centre, radius, random_colour(rng), -1)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 6)), np.uint8)


def packaged(rng: np.random.Generator, height: int, width: int, names: tuple[str, ...]) -> Picture:
    """A random piece of one of scikit-image's packaged pictures, at a random scale, turned or mirrored."""
    source = _packaged_picture(names[rng.integers(len(names))])
    if rng.random() < 0.3:
        source = np.ascontiguousarray(np.rot90(source, int(rng.integers(1, 4))))
    if rng.random() < 0.5:
        source = np.ascontiguousarray(source[:, ::-1])
    longest = min(source.shape[0] / height, source.shape[1] / width)
    piece = longest * rng.uniform(0.3, 1.0)
    rows, columns = max(8, int(height * piece)), max(8, int(width * piece))
    top = int(rng.integers(0, source.shape[0] - rows + 1))
    left = int(rng.integers(0, source.shape[1] - columns + 1))
    crop = source[top : top + rows, left : left + columns]
    return np.asarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@cache
def _packaged_picture(name: str) -> Picture:
    from importlib.resources import files

    folder = files("skimage") / "data"
    for suffix in (".png", ".jpg"):
        entry = folder / f"{name}{suffix}"
        if entry.is_file():
            coded = cv2.imdecode(np.frombuffer(entry.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            if coded is not None:
                return np.asarray(cv2.cvtColor(coded, cv2.COLOR_BGR2RGB), np.uint8)
    raise FileNotFoundError(f"scikit-image ships no picture named {name}")


def _askew(picture: Picture, rng: np.random.Generator, height: int, width: int) -> Picture:
    """A perspective view of a larger flat picture that fills the frame."""
    tall, wide = picture.shape[:2]
    jitter = rng.uniform(-0.12, 0.12, size=(4, 2)) * rng.choice([0.0, 1.0])
    corners = (np.array([[0.15, 0.15], [0.85, 0.15], [0.85, 0.85], [0.15, 0.85]]) + jitter) * [wide, tall]
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), frame)
    warped = cv2.warpPerspective(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(warped, np.uint8)


def _finished(values: np.ndarray) -> Picture:
    return np.asarray(np.clip(values, 0, 255), np.uint8)
