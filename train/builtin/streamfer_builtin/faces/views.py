"""Training pictures: random views of the decoded sets, as a function of a few numbers alone.

A view aims a face at a wanted size, so that small faces are as common as large ones; walls put several pictures side
by side; one in seven shows no face. What a camera, a codec or an old film does to the picture comes on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamfer.faces.images import DetectionSize
from streamfer_builtin.faces import sets
from streamfer_builtin.faces.config import LEAST_SIDE, SMALLEST_FACE
from streamfer_builtin.faces.degrade import Degrader
from streamfer_builtin.faces.labels import FloatArray, Labels, Picture, similarity
from streamfer_builtin.faces.lettering import letter
from streamfer_builtin.faces.losses import Targets
from streamfer_builtin.faces.occlude import occlude
from streamfer_builtin.faces.sets import Sample
from streamfer_builtin.faces.stones import stones

SMALLEST = 7.0
"""Faces below this many pixels in a view (square root of the area) are neither right nor wrong."""
_AIM = (10.0, 220.0)
_AS_READ = 0.4
"""Share of the pictures of people that are shown at about the size at which the product reads them."""
_READING = DetectionSize().reading(SMALLEST_FACE, LEAST_SIDE)
_MOST_ENLARGED = 2.5
_STONES = 0.2
"""Share of the pictures without faces that are drawn."""
_LETTERED = 0.5
"""Share of the views that something is written over."""
_LEAST_SHOWN = 0.4
"""The longer side of a picture takes at least this share of the view: portraits do not become thumbnails."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures B x S x S x 3 (RGB uint8) and the faces on them."""

    pictures: Tensor
    targets: Targets


class Views:
    """The training sets behind one call, :meth:`batch`."""

    def __init__(self, root: Path) -> None:
        self._crowds = [each for each in sets.crowds(root, "train") if not each.labels.ignored.all()]
        # A picture with thirty faces has more to teach than one with a single face, but not thirty times more.
        weight = np.sqrt([float((~each.labels.ignored).sum()) for each in self._crowds])
        self._shares = np.cumsum(weight / weight.sum())
        self._backgrounds = sets.backgrounds(root, "train")
        self._scenes = sets.scenes(root)
        self._degrader = Degrader()

    def batch(self, drawn: Sequence[int], size: int, side: int, strength: float = 1.0) -> Batch:
        """The ``size`` views of ``side`` x ``side`` pixels that the numbers ``drawn`` stand for; see :meth:`view`."""
        rng = np.random.default_rng(drawn)
        return collated([self.view(side, rng, strength) for _ in range(size)])

    def view(self, side: int, rng: np.random.Generator, strength: float = 1.0) -> tuple[Picture, Labels]:
        """One picture (RGB uint8, ``side`` x ``side``) and its faces; ``strength`` below 1 damages fewer of them."""
        kind = rng.random()
        if kind < 0.15:
            picture, labels = self._without_faces(side, rng), Labels.none()
        elif kind < 0.15 + 0.17 * strength:
            picture, labels = self._wall(side, rng)
        else:
            picture, labels = self._people(self._crowd(rng), side, rng)
        if rng.random() < 0.25 * strength:
            occlude(picture, labels, rng)
        if rng.random() < _LETTERED:
            letter(picture, labels, rng)
        return self._degrader.degraded(picture, rng, strength), labels.framed(side, side, smallest=SMALLEST)

    def _crowd(self, rng: np.random.Generator) -> Sample:
        return self._crowds[min(int(np.searchsorted(self._shares, rng.random())), len(self._crowds) - 1)]

    def _people(self, sample: Sample, side: int, rng: np.random.Generator) -> tuple[Picture, Labels]:
        """A view of ``sample`` in which one of its faces has a wanted size."""
        sure = np.flatnonzero(~sample.labels.ignored)
        face = int(rng.choice(sure))
        size = float(sample.labels.sizes()[face])
        height, width = sample.picture.shape[:2]
        if rng.random() < _AS_READ:
            scale = _READING.scale(height, width) * float(np.exp(rng.normal() * 0.25))
        else:
            low, high = np.log(_AIM[0]), np.log(min(_AIM[1], 0.9 * side))
            scale = float(np.exp(rng.uniform(low, high))) / size
        scale = min(max(scale, _LEAST_SHOWN * side / max(height, width)), _MOST_ENLARGED)
        box = sample.labels.boxes[face]
        # Where the view looks: the face anywhere in it, but within the picture as far as that is large enough.
        room = max(0.0, side / scale - 1.2 * size) / 2
        middle = (box[:2] + box[2:]) / 2 + rng.uniform(-1, 1, size=2) * room
        half, extent = side / scale / 2, np.array([width, height], np.float64)
        middle = np.clip(middle, np.minimum(half, extent - half), np.maximum(half, extent - half))
        matrix = similarity(_pair(middle), (side / 2, side / 2), scale, _turn(rng), mirror=_coin(rng))
        canvas = blank(side) if covers(matrix, side, width, height) else self._canvas(side, rng)
        return seen(sample, matrix, canvas), sample.labels.transformed(matrix)

    def _canvas(self, side: int, rng: np.random.Generator) -> Picture:
        """What is seen beyond the edges of a picture: a colour, or another picture without a face."""
        if rng.random() < 0.6:
            return self._without_faces(side, rng)
        return flat(side, rng)

    def _without_faces(self, side: int, rng: np.random.Generator) -> Picture:
        """A piece of a background picture, or stones."""
        if rng.random() < _STONES:
            return stones(side, rng)
        sample = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
        height, width = sample.picture.shape[:2]
        scale = side / min(height, width) * float(np.exp(rng.uniform(np.log(0.45), np.log(2.2))))
        slack = np.abs(np.array([width, height]) - side / scale) / 2
        middle = np.array([width, height]) / 2 + rng.uniform(-1, 1, size=2) * slack
        matrix = similarity(_pair(middle), (side / 2, side / 2), scale, _turn(rng), mirror=_coin(rng))
        canvas = blank(side) if covers(matrix, side, width, height) else flat(side, rng)
        return seen(sample, matrix, canvas)

    def _wall(self, side: int, rng: np.random.Generator) -> tuple[Picture, Labels]:
        """Pictures side by side, as in a video conference, a film with split screen, or a contact sheet."""
        cells = int(rng.choice([1, 2, 3, 4, 6], p=[0.3, 0.3, 0.2, 0.12, 0.08]))
        edges = np.linspace(0, side, cells + 1).round().astype(int)
        canvas = self._canvas(side, rng)
        gap, parts = int(rng.integers(0, 5)), []
        for top, bottom in zip(edges[:-1], edges[1:] - gap, strict=True):
            for left, right in zip(edges[:-1], edges[1:] - gap, strict=True):
                tile = min(bottom - top, right - left)
                sample = self._tile(rng)
                height, width = sample.picture.shape[:2]
                scale = tile / max(height, width) * float(rng.uniform(0.7, 1.25))
                middle, half = (width / 2, height / 2), (tile / 2, tile / 2)
                matrix = similarity(middle, half, scale, _turn(rng) if cells < 3 else 0.0, mirror=_coin(rng))
                canvas[top : top + tile, left : left + tile] = seen(sample, matrix, flat(tile, rng))
                labels = sample.labels.transformed(matrix)
                parts.append(labels.framed(tile, tile, smallest=0).shifted(float(left), float(top)))
        return canvas, Labels.joined(parts)

    def _tile(self, rng: np.random.Generator) -> Sample:
        if rng.random() < 0.75:
            return self._scenes[int(rng.integers(len(self._scenes)))]
        return self._crowd(rng)


def blank(side: int) -> Picture:
    """A picture that will be covered."""
    return np.zeros((side, side, 3), np.uint8)


def flat(side: int, rng: np.random.Generator) -> Picture:
    """One random colour."""
    canvas = blank(side)
    colour = [int(value) for value in rng.integers(0, 256, size=3)]
    cv2.rectangle(canvas, (0, 0), (side, side), colour, cv2.FILLED)
    return canvas


def covers(matrix: FloatArray, side: int, width: int, height: int) -> bool:
    """Whether a picture of ``width`` x ``height``, laid by the 2 x 3 ``matrix``, hides all of a square canvas."""
    corners, margin = _origin(matrix, side), _margin(matrix)
    return bool((corners >= margin).all() and (corners <= [width - 1 - margin, height - 1 - margin]).all())


def _margin(matrix: FloatArray) -> float:
    """How far beyond a canvas a warp reads, in pixels of the picture: two neighbours, once that has been shrunk."""
    return 2 / min(1.0, float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))))


def _origin(matrix: FloatArray, side: int) -> NDArray[np.float64]:
    """Where the corners of a square canvas lie in the picture that ``matrix`` lays over it: 4 x 2."""
    moved = matrix.astype(np.float64)
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float64) - moved[:, 2]
    return np.asarray(corners @ np.linalg.inv(moved[:, :2]).T)


def seen(sample: Sample, matrix: FloatArray, canvas: Picture) -> Picture:
    """``sample`` laid by the 2 x 3 ``matrix`` over ``canvas`` (square, changed); only what is in view is resampled.

    The picture is shrunk by area first, so that small faces are averaged rather than sampled.
    """
    side, picture = len(canvas), sample.picture
    moved = matrix.astype(np.float64)
    source, margin = _origin(matrix, side), _margin(matrix)
    height, width = picture.shape[:2]
    low = np.clip(np.floor(source.min(axis=0) - margin), 0, [width - 2, height - 2]).astype(int)
    high = np.clip(np.ceil(source.max(axis=0) + margin), low + 2, [width, height]).astype(int)
    part = picture[low[1] : high[1], low[0] : high[0]]
    moved[:, 2] += moved[:, :2] @ low
    scale = float(np.sqrt(abs(np.linalg.det(moved[:, :2]))))
    if scale < 0.7:
        tall, wide = part.shape[:2]
        size = (max(2, round(wide * scale)), max(2, round(tall * scale)))
        ratio = np.array([wide / size[0], tall / size[1]])
        # A warp maps pixel centres: centre x of the shrunk grid is ratio * (x + 1/2) - 1/2 of the old one.
        moved[:, 2] += moved[:, :2] @ (0.5 * ratio - 0.5)
        moved[:, :2] *= ratio
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    if part.ndim == 2:
        part = np.asarray(cv2.cvtColor(part, cv2.COLOR_GRAY2RGB), np.uint8)
    cv2.warpAffine(part, moved, (side, side), dst=canvas, borderMode=cv2.BORDER_TRANSPARENT)
    return canvas


def collated(items: list[tuple[Picture, Labels]]) -> Batch:
    """A batch from pictures of equal size and their labels."""
    stacked = torch.from_numpy(np.stack([picture for picture, _ in items]))
    joined = Labels.joined([labels for _, labels in items])
    owner = np.repeat(np.arange(len(items)), [len(labels) for _, labels in items])
    targets = Targets(
        torch.from_numpy(owner),
        torch.from_numpy(joined.boxes),
        torch.from_numpy(joined.landmarks.reshape(-1, 10)),
        torch.from_numpy(joined.ignored),
        torch.from_numpy(joined.precise),
    )
    return Batch(stacked, targets)


def normalised(pictures: Tensor) -> Tensor:
    """B x H x W x 3 uint8 RGB as the network takes it: B x 3 x H x W float32, (value - 127.5) / 128, channels last."""
    return pictures.float().sub_(127.5).mul_(1 / 128).permute(0, 3, 1, 2)


def _turn(rng: np.random.Generator) -> float:
    kind = rng.random()
    if kind < 0.45:
        return 0.0
    reach = 20.0 if kind < 0.92 else 45.0
    return float(rng.uniform(-reach, reach))


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)


def _pair(values: FloatArray | np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])
