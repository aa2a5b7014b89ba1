"""Scenes with known ids from real pictures of several people: a moving camera looks at parts of one picture.

Everybody stays where the photographer found them; the camera pans away and comes back, shakes in a hand, zooms, or
stands still while people turn away. Who is turned away, or mostly outside the view, is not seen by the detector.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tracking_scenes import HEIGHT, WIDTH, Faults, Sample, detected

from streamfer.errors import SourceUnreadableError

#: Faces of a scene, and the height in pixels that their median gets.
FEWEST, MOST, FACE_HEIGHT = 3, 12, 40.0
SECONDS = 10.0
#: Where the camera looks at a time: x and y of the view's centre as shares of the free way (-1 to 1), and zoom.
Camera = Callable[[float], tuple[float, float, float]]


def crowd_scenes(path: Path, fps: float, seeds: int, first: int) -> dict[str, list[Sample]]:
    """Return the frames of every kind of scene, each ``seeds`` times with another picture of crowds.parquet."""
    pictures = _pictures(path)
    played = {}
    for seed in range(first, first + seeds):
        rng = np.random.default_rng(5000 + seed)
        for kind, camera in _cameras(rng).items():
            picture, boxes = pictures[int(rng.integers(len(pictures)))]
            away = _turned(len(boxes), rng) if kind == "turning away" else [(0.0, 0.0)] * len(boxes)
            played[f"{kind}-{seed}"] = _play(picture, boxes, camera, away, fps, rng)
    return played


def _pictures(path: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Pictures of people with several faces of a size, enlarged or shrunk so that the median face has that height."""
    chosen: list[tuple[NDArray[np.uint8], NDArray[np.float32]]] = []
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceUnreadableError(f"{path}: no whole crowds.parquet; fetch it again") from error
    for batch in file.iter_batches(batch_size=64):
        for row in batch.to_pylist():
            boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)[np.array(row["sure"], bool)]
            sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=1e9)
            if not FEWEST <= len(boxes) <= MOST or sides.min() < 16:
                continue
            scale = FACE_HEIGHT / float(np.median(boxes[:, 3] - boxes[:, 1]))
            scale = max(scale, 1.3 * WIDTH / row["width"], 1.3 * HEIGHT / row["height"])
            if scale > 2.5:
                continue
            decoded = cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_COLOR)
            sized = cv2.resize(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), None, fx=scale, fy=scale)
            chosen.append((np.asarray(sized, np.uint8), boxes * np.float32(scale)))
            if len(chosen) == 60:
                return chosen
    return chosen


def _cameras(rng: np.random.Generator) -> dict[str, Camera]:
    phase = rng.uniform(0, 6.28, 6)
    rate = rng.uniform(0.8, 1.3)
    return {
        "panning": lambda t: (float(np.sin(rate * t + phase[0])), 0.3 * float(np.sin(0.5 * t + phase[1])), 1.0),
        "in a hand": lambda t: (
            0.25 * float(np.sin(4.1 * t + phase[2]) + np.sin(1.3 * t + phase[3])),
            0.3 * float(np.sin(5.3 * t + phase[4])),
            1.0,
        ),
        "zooming": lambda t: (0.2 * float(np.sin(0.7 * t + phase[5])), 0.0, 1.0 + 0.25 * float(np.sin(1.1 * t))),
        "turning away": lambda t: (0.05 * float(np.sin(t)), 0.0, 1.0),
    }


def _turned(count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """When everybody is turned away: nobody for half of them, else from 0.5 to 2 seconds."""
    spans = []
    for _ in range(count):
        start, long = rng.uniform(1.0, SECONDS - 3.0), rng.uniform(0.5, 2.0)
        spans.append((start, start + long) if rng.random() < 0.5 else (0.0, 0.0))
    return spans


def _play(
    picture: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    camera: Camera,
    away: list[tuple[float, float]],
    fps: float,
    rng: np.random.Generator,
) -> list[Sample]:
    height, width = picture.shape[:2]
    samples = []
    for index in range(round(SECONDS * fps)):
        time = index / fps
        x, y, zoom = camera(time)
        view = np.array([WIDTH, HEIGHT]) / zoom
        free = np.maximum(np.array([width, height]) - view, 0) / 2
        corner = np.array([width, height]) / 2 + np.clip([x, y], -1, 1) * free - view / 2
        matrix = np.hstack([np.eye(2) * zoom, (-corner * zoom)[:, None]])
        frame = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        noisy = np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)
        placed = ((boxes - np.tile(corner, 2)) * zoom).astype(np.float32)
        clipped = np.clip(placed, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        shown = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1) >= 0.7 * np.prod(placed[:, 2:] - placed[:, :2], axis=1)
        shown &= ~np.array([start <= time < end for start, end in away])
        ids = np.flatnonzero(shown)
        samples.append(Sample(noisy, ids, placed[ids], detected(placed[ids], Faults(), rng)))
    return samples
