"""A pool of composed pictures on disk, and the training batches drawn from it with cheap augmentation.

Composing costs tens of milliseconds a picture, a training step has two or three to spare, so composites are made
once and then cropped, scaled, mirrored and recoloured anew each time they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import structlog
import torch
from torch import Tensor

from streamfer.errors import SourceNotFoundError
from streamfer_builtin.faces.compose import Composer
from streamfer_builtin.faces.config import FacesConfig
from streamfer_builtin.faces.degrade import colour_shifted
from streamfer_builtin.faces.labels import FloatArray, Labels, Picture, similarity
from streamfer_builtin.faces.losses import Targets
from streamfer_builtin.faces.shards import Shard, coded_jpeg
from streamfer_builtin.faces.sources import gather, load_sources
from streamfer_builtin.faces.teacher import Teacher
from streamfer_builtin.faces.warp import presized

log = structlog.get_logger(__name__)


def shard_path(folder: Path, split: str, index: int) -> Path:
    """Where shard ``index`` of ``split`` lies in the working folder."""
    return folder / f"{split}-pool-{index:03d}.npz"


def compose_shard(composer: Composer, path: Path, *, count: int, seed: tuple[int, int]) -> None:
    """Compose ``count`` pictures into one shard file; each picture has its own generator, so shards reproduce."""
    coded, labels = [], []
    for index in range(count):
        picture, faces = composer.picture(np.random.default_rng([*seed, index]))
        coded.append(coded_jpeg(picture))
        labels.append(faces)
    Shard.of(coded, labels).save(path)
    log.info("faces.pool.composed", shard=path.name, pictures=count, faces=sum(len(each) for each in labels))


def compose_missing(config: FacesConfig) -> None:
    """Gather the sources and compose every shard of both splits that is not in the work folder yet."""
    folder, pool = config.work / "sources", config.pool
    wanted = {("train", index): pool.shard_size for index in range(pool.shards)} | {("val", 0): pool.validation}
    missing = {key: count for key, count in wanted.items() if not shard_path(folder, *key).is_file()}
    if not missing:
        return
    gather(config.data.root, folder, Teacher(config.data.teacher_path()), heads=pool.heads, seed=pool.seed)
    for (split, index), count in missing.items():
        held_out = split == "val"
        composer = Composer(
            load_sources(folder, split), pool.side, held_out=held_out, photographs=pool.photographs
        )  # fmt: skip
        seed = (pool.seed + held_out, index)
        compose_shard(composer, shard_path(folder, split, index), count=count, seed=seed)


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures B x 3 x S x S (float32, normalised) and the faces on them."""

    pictures: Tensor
    targets: Targets


class Pool:
    """The composed pictures of one split, drawn from as often as wanted.

    Raises:
        SourceNotFoundError: one of the shards has not been composed.
    """

    def __init__(self, folder: Path, split: str, shards: int) -> None:
        paths = [shard_path(folder, split, index) for index in range(shards)]
        for path in paths:
            if not path.is_file():
                raise SourceNotFoundError(f"{path}: no such shard; run `compose`, or lower pool.shards")
        self._shards = [Shard.load(path) for path in paths]
        self._places = [(shard, index) for shard in self._shards for index in range(len(shard))]

    def __len__(self) -> int:
        return len(self._places)

    def item(self, index: int) -> tuple[Picture, Labels]:
        """Picture ``index`` (RGB uint8) and its labels."""
        shard, place = self._places[index]
        return shard.picture(place), shard.faces(place)

    def batch(self, seed: int, step: int, size: int, side: int) -> Batch:
        """The ``size`` augmented pictures of training step ``step``: a function of ``seed`` and ``step`` alone."""
        rng = np.random.default_rng([seed, step])
        items = []
        for index in rng.integers(len(self), size=size):
            picture, labels = self.item(int(index))
            items.append(augmented(picture, labels, side, rng))
        return collated(items)


def augmented(picture: Picture, labels: Labels, side: int, rng: np.random.Generator) -> tuple[Picture, Labels]:
    """A random view of ``side`` x ``side`` pixels: scaled, moved, slightly turned, mirrored, recoloured."""
    height, width = picture.shape[:2]
    scale = float(np.exp(rng.uniform(np.log(0.75), np.log(1.9)))) * side / max(height, width)
    turn = rng.normal() * 6 if rng.random() < 0.5 else 0.0
    centre = _centre_of_view(labels, scale, side, (width, height), rng)
    matrix = similarity(centre, (side / 2, side / 2), scale, turn, mirror=bool(rng.random() < 0.5))
    shrunk, moved = presized(picture, matrix)
    fill = tuple(rng.integers(0, 256, size=3).tolist())
    view = cv2.warpAffine(shrunk, moved, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=fill)
    return colour_shifted(np.asarray(view, np.uint8), rng, 0.6), labels.transformed(matrix).framed(side, side)


def _centre_of_view(
    labels: Labels, scale: float, side: int, size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float]:
    """Where to look: within the picture when it is larger than the view, usually near a face."""
    slack = np.array([abs(extent - side / scale) / 2 for extent in size])
    middle = np.array(size) / 2 + rng.uniform(-1, 1, size=2) * slack
    if len(labels) and scale * max(size) > side and rng.random() < 0.7:
        box = labels.boxes[int(rng.integers(len(labels)))]
        near = (box[:2] + box[2:]) / 2 + rng.uniform(-0.5, 0.5, size=2) * side / scale * 0.8
        middle = np.clip(near, np.array(size) / 2 - slack, np.array(size) / 2 + slack)
    return float(middle[0]), float(middle[1])


def collated(items: list[tuple[Picture, Labels]]) -> Batch:
    """A batch from pictures of equal size and their labels."""
    stacked = torch.from_numpy(np.stack([picture for picture, _ in items]))
    pictures = normalised(stacked)
    joined = Labels.joined([labels for _, labels in items])
    owner = np.repeat(np.arange(len(items)), [len(labels) for _, labels in items])
    landmarks: FloatArray = joined.landmarks.reshape(-1, 10)
    targets = Targets(
        torch.from_numpy(owner),
        torch.from_numpy(joined.boxes),
        torch.from_numpy(landmarks),
        torch.from_numpy(joined.ignored),
        torch.from_numpy(joined.precise),
    )
    return Batch(pictures, targets)


def normalised(pictures: Tensor) -> Tensor:
    """B x H x W x 3 uint8 RGB as the network takes it: B x 3 x H x W float32, (value - 127.5) / 128, channels last."""
    return ((pictures.float() - 127.5) / 128).permute(0, 3, 1, 2)
