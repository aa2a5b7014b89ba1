"""Generated scenes with known ids: rendered pictures, true boxes, and detections with a detector's faults.

Actors are real faces that installed packages ship (insightface's sample group, scikit-image's astronaut), cut out
with hair and shoulders and moved over scikit-image's pictures. Everything follows from the scene's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces import Detections
from streamfer.faces.alignment import landmarks_within

WIDTH, HEIGHT = 480, 270
#: Faces in insightface's t1.jpg and in the astronaut picture: x, y, width, height, as YuNet draws them.
GROUP_FACES = (
    (57, 262, 115, 135),
    (269, 148, 103, 123),
    (464, 266, 111, 153),
    (744, 346, 99, 128),
    (906, 59, 103, 144),
    (1129, 269, 97, 129),
)
ASTRONAUT_FACE = (178, 64, 91, 111)
BACKDROPS = ("coffee", "brick", "rocket", "chelsea", "grass", "gravel")

#: Where a face is at a time: x and y of its centre and its height, pixels.
Path3 = Callable[[float], tuple[float, float, float]]


@dataclass(frozen=True)
class Actor:
    """One person: who it looks like, where it goes, when it is there."""

    person: int
    where: Path3
    enters: float = 0.0
    leaves: float = 1e9
    hidden: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Shot:
    """What the camera shows until the next cut."""

    seconds: float
    actors: tuple[Actor, ...]
    backdrop: int = 0
    shake: float = 0.0


@dataclass(frozen=True)
class Faults:
    """What the simulated detector does wrong."""

    missed: float = 0.03
    jitter: float = 0.03
    invented: float = 0.02


@dataclass(frozen=True)
class Scene:
    """A named scene of one or more shots."""

    name: str
    shots: tuple[Shot, ...]
    seed: int = 0
    faults: Faults = field(default_factory=Faults)


@dataclass(frozen=True)
class Sample:
    """One rendered frame with the truth and what the detector says."""

    image: NDArray[np.uint8]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    detections: Detections


@dataclass(frozen=True)
class Sprite:
    """A cut-out person: picture, soft mask, and the face's box within it."""

    picture: NDArray[np.uint8]
    mask: NDArray[np.float32]
    face: tuple[float, float, float, float]


def sprites() -> list[Sprite]:
    """Cut the seven people out of the packaged pictures."""
    import insightface
    from skimage import data

    group_file = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
    group = cv2.cvtColor(cv2.imread(str(group_file)), cv2.COLOR_BGR2RGB)
    cut = [_cut(np.asarray(group, np.uint8), face) for face in GROUP_FACES]
    return [*cut, _cut(np.asarray(data.astronaut(), np.uint8), ASTRONAUT_FACE)]


def _cut(image: NDArray[np.uint8], face: tuple[int, int, int, int]) -> Sprite:
    x, y, w, h = face
    left, top, right, bottom = x - w // 2, y - h // 2, x + w + w // 2, y + h + int(0.9 * h)
    left, top = max(0, left), max(0, top)
    right, bottom = min(image.shape[1], right), min(image.shape[0], bottom)
    picture = image[top:bottom, left:right]
    mask = np.zeros(picture.shape[:2], np.float32)
    cx, cy = x - left + w // 2, y - top + h // 2
    cv2.ellipse(mask, (cx, cy), (int(0.68 * w), int(0.8 * h)), 0, 0, 360, 1.0, -1)
    cv2.rectangle(mask, (cx - int(0.85 * w), cy + int(0.75 * h)), (cx + int(0.85 * w), cy + 3 * h), 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 2.5)
    return Sprite(picture, mask, (x - left, y - top, w, h))


def backdrop(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return a scikit-image picture as uint8 RGB of the given size."""
    from skimage import data

    picture = np.asarray(getattr(data, BACKDROPS[index % len(BACKDROPS)])(), np.uint8)
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def play(scene: Scene, fps: float, people: list[Sprite]) -> Iterator[Sample]:
    """Render a scene at ``fps`` frames a second."""
    rng = np.random.default_rng(scene.seed)
    first_id = 0
    for shot in scene.shots:
        ground = backdrop(shot.backdrop, WIDTH + 80, HEIGHT + 80)
        sway = rng.uniform(0, 6.28, 4)
        for index in range(round(shot.seconds * fps)):
            time = index / fps
            shift = shot.shake * np.array(
                [np.sin(5.1 * time + sway[0]) + np.sin(2.3 * time + sway[1]), np.sin(4.3 * time + sway[2])]
            )
            x, y = np.clip(40 + shift, 0, 80).astype(int)
            canvas = ground[y : y + HEIGHT, x : x + WIDTH].copy()
            truth = _draw(canvas, shot, time, shift, people)
            noisy = np.clip(canvas + rng.normal(0, 3, canvas.shape), 0, 255).astype(np.uint8)
            ids = np.array([first_id + key for key, _ in truth], np.int64)
            boxes = np.array([box for _, box in truth], np.float32).reshape(-1, 4)
            yield Sample(noisy, ids, boxes, detected(boxes, scene.faults, rng))
        first_id += 100


def _draw(
    canvas: NDArray[np.uint8], shot: Shot, time: float, shift: NDArray[np.float64], people: list[Sprite]
) -> list[tuple[int, NDArray[np.float32]]]:
    """Draw the actors, far ones first; return the visible ones with their boxes."""
    placed = []
    for key, actor in enumerate(shot.actors):
        if actor.enters <= time < actor.leaves:
            cx, cy, size = actor.where(time)
            hidden = any(start <= time < end for start, end in actor.hidden)
            placed.append((size, key, actor.person, cx - shift[0], cy - shift[1], hidden))
    owner = np.full(canvas.shape[:2], -1, np.int64)
    boxes: dict[int, NDArray[np.float32]] = {}
    for size, key, person, cx, cy, hidden in sorted(placed):
        boxes[key] = _paste(canvas, owner, people[person % len(people)], key, (cx, cy, size))
        if hidden:
            x1, y1, x2, y2 = (boxes[key] + np.array([-30, -30, 30, 200])).astype(int)
            canvas[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = (96, 72, 54)
            owner[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = -2
    visible = []
    for key, box in boxes.items():
        x1, y1, x2, y2 = np.round(box).astype(int)
        part = owner[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
        if (part == key).sum() >= 0.45 * (x2 - x1) * (y2 - y1):
            visible.append((key, box))
    return sorted(visible, key=lambda item: item[0])


def _paste(
    canvas: NDArray[np.uint8],
    owner: NDArray[np.int64],
    sprite: Sprite,
    key: int,
    place: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Draw one person with the face's centre and height at ``place``; return the face's box."""
    cx, cy, size = place
    fx, fy, fw, fh = sprite.face
    scale = size / fh
    matrix = np.array([[scale, 0, cx - scale * (fx + fw / 2)], [0, scale, cy - scale * (fy + fh / 2)]])
    picture = cv2.warpAffine(sprite.picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_AREA)
    mask = cv2.warpAffine(sprite.mask, matrix, (WIDTH, HEIGHT))[:, :, None]
    canvas[:] = (canvas * (1 - mask) + picture * mask).astype(np.uint8)
    owner[mask[:, :, 0] > 0.5] = key
    half = np.array([fw, fh]) * scale / 2
    return np.array([cx - half[0], cy - half[1], cx + half[0], cy + half[1]], np.float32)


def detected(boxes: NDArray[np.float32], faults: Faults, rng: np.random.Generator) -> Detections:
    """Return the true boxes as a detector would: some missed, all inexact, a few invented."""
    seen = boxes[rng.random(len(boxes)) >= faults.missed]
    sides = np.tile(seen[:, 2:] - seen[:, :2], 2)
    found = [seen + rng.normal(0, faults.jitter, seen.shape) * sides]
    scores = [np.clip(rng.normal(0.88, 0.06, len(seen)), 0.5, 0.99)]
    if rng.random() < faults.invented:
        side = rng.uniform(25, 60)
        corner = rng.uniform((0, 0), (WIDTH - side, HEIGHT - side))
        found.append(np.concatenate([corner, corner + side])[None])
        scores.append(rng.uniform(0.6, 0.75, 1))
    stacked = np.concatenate(found).astype(np.float32)
    return Detections.ranked(stacked, np.concatenate(scores), landmarks_within(stacked), 64)


def _walk(x0: float, x1: float, y: float, size: float, seconds: float, start: float = 0.0) -> Path3:
    def where(time: float) -> tuple[float, float, float]:
        share = np.clip((time - start) / seconds, 0, 1)
        return x0 + (x1 - x0) * share, y + 0.04 * size * np.sin(9 * time), size

    return where


def _meet(x0: float, turn: float, y: float, size: float, seconds: float) -> Path3:
    """Walk to ``turn`` and back again."""

    def where(time: float) -> tuple[float, float, float]:
        share = 1 - abs(np.clip(time / seconds, 0, 1) * 2 - 1)
        return x0 + (turn - x0) * share, y + 0.03 * size * np.sin(9 * time), size

    return where


def _mill(rng: np.random.Generator, size: float) -> Path3:
    """Wander about slowly."""
    x, y = rng.uniform(70, WIDTH - 70), rng.uniform(80, HEIGHT - 110)
    reach, rate, phase = rng.uniform(20, 70, 2), rng.uniform(0.3, 1.0, 2), rng.uniform(0, 6.28, 2)

    def where(time: float) -> tuple[float, float, float]:
        return (
            x + reach[0] * np.sin(rate[0] * time + phase[0]),
            y + 0.4 * reach[1] * np.sin(rate[1] * time + phase[1]),
            size,
        )

    return where


def scenes(seeds: int = 3, first: int = 0) -> list[Scene]:
    """Return the test scenes, each kind ``seeds`` times with other people, places and faults."""
    made: list[Scene] = []
    for seed in range(first, first + seeds):
        rng = np.random.default_rng(1000 + seed)
        a, b, c, d, e = rng.permutation(7)[:5]
        size, y = rng.uniform(44, 64), rng.uniform(95, 125)
        duration = rng.uniform(4, 7)
        crossing = (
            Actor(a, _walk(40, 440, y, size, duration)),
            Actor(b, _walk(440, 40, y + 6, size * 1.1, duration)),
        )
        bounce = (Actor(a, _meet(60, 222, y, size, 6)), Actor(b, _meet(430, 262, y, size * 1.05, 6)))
        pillar = (
            Actor(a, _walk(60, 400, y, size, 9), hidden=((3.0, 3.0 + rng.uniform(1.2, 2.0)),)),
            Actor(b, _walk(380, 360, y, size, 9), hidden=((5.0, 5.0 + rng.uniform(1.0, 2.0)),)),
        )
        comings = (
            Actor(a, _walk(-40, 520, y, size, 7)),
            Actor(b, _walk(520, 120, y - 10, size * 0.8, 4, start=2), enters=2),
            Actor(c, _walk(300, 300, y + 10, size * 1.1, 1), enters=5),
            Actor(d, _walk(520, -60, y, size * 0.9, 5, start=6), enters=6),
        )
        crowd = tuple(Actor(person, _mill(rng, rng.uniform(30, 48))) for person in (a, b, c, d, e))
        pair = (Actor(a, _walk(150, 170, y, size, 6)), Actor(b, _walk(340, 320, y, size, 6)))
        swapped = (Actor(b, _walk(150, 170, y, size, 6)), Actor(c, _walk(330, 300, y, size, 6)))
        made += [
            Scene(f"crossing-{seed}", (Shot(duration + 1, crossing, seed),), seed),
            Scene(f"meeting-{seed}", (Shot(7, bounce, seed + 1),), seed),
            Scene(f"occlusion-{seed}", (Shot(10, pillar, seed + 2),), seed),
            Scene(f"entries-{seed}", (Shot(12, comings, seed + 3),), seed),
            Scene(f"crowd-{seed}", (Shot(12, crowd, seed + 4),), seed),
            Scene(f"shaky-{seed}", (Shot(8, pair, seed, shake=18.0),), seed),
            Scene(f"cuts-{seed}", (Shot(4, pair, seed), Shot(4, swapped, seed + 1), Shot(4, pair, seed + 2)), seed),
        ]
        noisy = replace(made[-7], name=f"noisy-{seed}", faults=Faults(missed=0.08, jitter=0.06, invented=0.1))
        made.append(noisy)
    return made
