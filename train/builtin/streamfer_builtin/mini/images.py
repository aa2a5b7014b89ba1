"""Stage `images`: the image tower of the mini model on single photographs, blendshape scores as a second task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from streamfer_builtin.mini import augment
from streamfer_builtin.mini.data import CLASSES, Corpus, Pictures, sampling_weights
from streamfer_builtin.mini.fitting import fit
from streamfer_builtin.mini.networks import ImageModel, JointModel
from streamfer_builtin.mini.recipe import ImagesPart, JointPart, Sizes, Small
from streamfer_train.metrics.classification import report
from streamfer_train.recipes.processes import ALONE, ProcessGroup

CHECKPOINT = "images.pt"
#: Before the last epoch only every eighth validation picture is watched.
_WATCHED = 8

ImageBatch = tuple[Tensor, Tensor, Tensor]


class ImagesTask:
    """Batches, loss and validation of the stage."""

    name = "images"

    def __init__(self, corpus: Corpus, part: ImagesPart) -> None:
        self.corpus = corpus
        self.part = part
        self.steps = math.ceil(part.pictures / part.batch)
        self.side = augment.CROP

    def batches(self, epoch: int) -> Iterator[ImageBatch]:
        """Yield images (B, 1, H, H), labels (B,) and blendshape scores (B, S)."""
        part = self.part
        rng = torch.Generator().manual_seed(part.seed * 1000 + 500 + epoch)
        drawn = [(p, index.tensor_split(self.steps)) for p, index in draw(self.corpus.train, part, epoch)]
        strength = augment.Strength().relaxed(relaxation(epoch / part.epochs))
        for step in range(self.steps):
            images, labels, scores = batch_of(self.corpus, [(p, chunks[step]) for p, chunks in drawn], strength, rng)
            self.side = side_at((epoch + step / self.steps) / part.epochs, part.small)
            yield augment.resized(images, self.side), labels, scores

    def loss(self, model: ImageModel, batch: ImageBatch) -> Tensor:
        """Cross-entropy plus the weighted error of the blendshape scores that exist."""
        images, labels, scores = batch
        logits, predicted = model(images)
        known = ~scores.isnan()
        error = F.smooth_l1_loss(predicted[known], scores[known])
        return F.cross_entropy(logits, labels, label_smoothing=self.part.smoothing) + self.part.action_weight * error

    def watch(self, average: ImageModel, *, last: bool) -> dict[str, float]:
        """Return accuracy and UAR on FER2013 val, whose pictures are as large as those the epoch ended with."""
        return watched(average, self.corpus.val, self.side, last=last)


def train(corpus: Corpus, part: ImagesPart, sizes: Sizes, work: Path, world: ProcessGroup = ALONE) -> ImageModel:
    """Train, or resume from `work`/images.pt, and return the averaged model."""
    torch.manual_seed(part.seed)
    model = ImageModel(sizes, len(corpus.mirror))
    return fit(model, ImagesTask(corpus, part), part, work / CHECKPOINT, {"sizes": sizes.model_dump()}, world)


def draw(
    sources: Sequence[Pictures], part: ImagesPart | JointPart, epoch: int, pictures: int | None = None
) -> list[tuple[Pictures, Tensor]]:
    """Draw an epoch's photographs of FER2013 and `faces`, classes nearer to balance than they are.

    The same for the same seed and epoch. `pictures` overrides the recipe's number.
    """
    rng = torch.Generator().manual_seed(part.seed * 1000 + epoch)
    total = part.pictures if pictures is None else pictures
    faces = round(total * part.faces_share)
    drawn = []
    for source, count, cap in zip(sources, (total - faces, faces), (None, part.faces_cap), strict=True):
        weights = sampling_weights(source.labels, power=part.power, cap=cap)
        drawn.append((source, without_clumps(weights, count, rng)))
    return drawn


def batch_of(
    corpus: Corpus, parts: list[tuple[Pictures, Tensor]], strength: augment.Strength, rng: torch.Generator
) -> ImageBatch:
    """Augment one batch: images (B, 1, 48, 48), labels (B,), blendshape scores (B, S)."""
    images, labels, scores = [], [], []
    for pictures, index in parts:
        theta, mirrored = augment.jitter(len(index), strength, rng)
        padding = augment.random_padding(rng)
        images.append(augment.crop(pictures.pixels[index], pictures.extent, theta, padding))
        labels.append(pictures.labels[index])
        kept = pictures.scores[index]
        scores.append(torch.where(mirrored[:, None], kept[:, corpus.mirror] * corpus.mirror_sign, kept))
    return augment.photometric(torch.cat(images), strength, rng), torch.cat(labels), torch.cat(scores)


@torch.no_grad()
def predict(model: ImageModel | JointModel, pictures: Pictures, side: int, batch: int = 256) -> Tensor:
    """Return float32 logits (N, C) of the plain crops at `side` pixels."""
    model.eval()
    parts = torch.split(torch.arange(len(pictures)), batch)
    crops = (augment.crop(pictures.pixels[rows], pictures.extent) for rows in parts)
    return torch.cat([model(augment.resized(images, side))[0] for images in crops])


def watched(model: ImageModel | JointModel, val: Pictures, side: int, *, last: bool) -> dict[str, float]:
    """Return accuracy and UAR, of an eighth of the pictures until the last epoch."""
    seen = val if last else val.subset(torch.arange(0, len(val), _WATCHED))
    scores = report(predict(model, seen, side), seen.labels, CLASSES)
    return {"val_acc": round(scores.war, 4), "val_uar": round(scores.uar, 4)}


def side_at(progress: float, small: Sequence[Small]) -> int:
    """Return the side of the pictures at this share of a stage, pixels."""
    return next((s.side for s in small if progress < s.until), augment.CROP)


def relaxation(progress: float) -> float:
    """Augmentation is full at first and relaxes to 0.3: a short run ends near to the pictures it will meet."""
    return 1.0 if progress < 0.3 else max(0.3, 1.0 - 0.7 * (progress - 0.3) / 0.45)


def without_clumps(weights: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Draw `count` rows by weight: whole parts of the expected count are certain and only the rest is drawn."""
    expected = weights / weights.sum() * count
    certain = expected.floor()
    repeats = certain.long() + (torch.rand(len(weights), generator=rng, dtype=torch.float64) < expected - certain)
    index = torch.repeat_interleave(torch.arange(len(weights)), repeats)
    return index[torch.randperm(len(index), generator=rng)]
