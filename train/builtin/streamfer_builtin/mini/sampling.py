"""What an epoch of photographs is: rows drawn by class, augmentation that relaxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamfer_builtin.mini.data import Pictures
from streamfer_builtin.mini.recipe import JointPart


def draw(sources: Sequence[Pictures], part: JointPart, epoch: int, pictures: int) -> list[Tensor]:
    """Draw an epoch's rows of FER2013 and of `faces`, classes nearer to balance than they are.

    The same for the same seed and epoch.
    """
    rng = torch.Generator().manual_seed(part.seed * 1000 + epoch)
    faces = round(pictures * part.faces_share)
    drawn = []
    for source, count, cap in zip(sources, (pictures - faces, faces), (None, part.faces_cap), strict=True):
        weights = sampling_weights(source.targets(part.vote_share), power=part.power, cap=cap)
        drawn.append(without_clumps(weights, count, rng))
    return drawn


def sampling_weights(targets: Tensor, *, power: float = 0.5, cap: int | None = None) -> Tensor:
    """Weigh every picture by (size of its class) ** -power, and a class above `cap` pictures down to the cap.

    `targets` are probabilities (N, C): a picture of two classes weighs between them. power 0 keeps the natural
    frequencies, 1 makes all classes equally frequent. Returns float64 (N,), mean 1.
    """
    counts = targets.double().sum(0)
    size = counts if cap is None else counts.clamp(max=float(cap))
    # What a class contributes in all is (effective size) ** (1 - power), shared among its pictures.
    per_picture = size.clamp(min=1) ** (1 - power) / counts.clamp(min=1)
    weights = targets.double() @ per_picture
    return weights / weights.mean()


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
