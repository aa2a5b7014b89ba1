"""Clips as batches: a dataset without state, and loaders.

What a clip looks like is a pure function of (seed, epoch, index, repeat): whoever resumes, in whichever number of
processes, sees the same pixels.

Shape suffixes: B clips, T frames, S side, A action units.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.augment import draw_view, render, whole_view
from streamfer_train.dfer_clip.data_config import DataConfig
from streamfer_train.dfer_clip.entries import Clip
from streamfer_train.dfer_clip.folds import Fold
from streamfer_train.dfer_clip.frames import read_clip
from streamfer_train.recipes.loading import Batch, Draw, Loader, TrainSampler, worker_count
from streamfer_train.recipes.processes import ALONE, ProcessGroup


class ClipDataset(Dataset[Batch]):
    """Clips by :class:`~streamfer_train.recipes.loading.Draw`; without training at the test's positions and view.

    What it returns; a batch has the same keys and one dimension, B, more.
    ``pixels``: uint8 (T, 3, S, S) RGB; divided by 255 they are what the authors' model reads (no mean, no std).
    ``label``: int64 (), place in ``Fold.classes``. ``index``: int64 (), place in the list of clips.
    ``actions``: float32 (A,), NaN where absent. ``votes``: float32 (C,), shares of votes, or nothing (0,).
    """

    def __init__(self, clips: Sequence[Clip], config: DataConfig, *, training: bool, seed: int = 1) -> None:
        self.clips = tuple(clips)
        self.config = config
        self.training = training
        self.seed = seed
        places = {name: place for place, name in enumerate(config.class_names)}
        self.labels = np.array([places[clip.label] for clip in self.clips], np.int64)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: Draw) -> Batch:
        clip = self.clips[draw.index]
        rng = random.Random(f"{self.seed}.{draw.epoch}.{draw.index}.{draw.repeat}") if self.training else None
        pictures = read_clip(clip, self.config.frames, rng)
        height, width = pictures[0].shape[:2]
        size = self.config.size
        name = self.config.augmentation_name
        view = draw_view(name, width, height, size, rng) if rng else whole_view(width, height)
        return {
            "pixels": render(view, pictures, size),
            "label": torch.tensor(self.labels[draw.index]),
            "index": torch.tensor(draw.index),
            "actions": torch.tensor(clip.actions, dtype=torch.float32),
            "votes": torch.tensor(clip.votes, dtype=torch.float32),
        }


def each_once(length: int, *, rank: int = 0, world_size: int = 1) -> list[Draw]:
    """Return every clip once, in order; of several processes each takes every ``world_size``-th, none twice."""
    return [Draw(0, index) for index in range(rank, length, world_size)]


@dataclass(frozen=True, slots=True)
class Loaders:
    """The loaders of one fold; ``held_out`` is None where nothing is held out."""

    train: Loader[Batch]
    order: TrainSampler  #: of training, whose epoch is chosen before each iteration
    held_out: Loader[Batch] | None
    test: Loader[Batch]


def build_loaders(
    config: DataConfig, fold: Fold, *, batch_size: int, seed: int = 1, world: ProcessGroup = ALONE
) -> Loaders:
    """Build the loaders of one process; a ConfigError where nothing is tested on."""
    train = ClipDataset(fold.train, config, training=True, seed=seed)
    order = TrainSampler(
        train.labels, batch_size=batch_size, seed=seed, rank=world.rank, world_size=world.size,
        oversample=config.oversample,
    )  # fmt: skip
    if not fold.test:
        raise ConfigError(f"fold {fold.number}: the test list has no clip that can be used")
    workers = worker_count(config.workers, world.size)
    more: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "seed": seed}
    more |= {"prefetch_factor": config.prefetch if workers else None, "pin_memory": world.device.type == "cuda"}

    def evaluation(clips: Sequence[Clip]) -> Loader[Batch]:
        # Its workers end with it, so that they take no memory from training.
        once = each_once(len(clips), rank=world.rank, world_size=world.size)
        return Loader(ClipDataset(clips, config, training=False, seed=seed), sampler=once, **more)

    return Loaders(
        Loader(train, sampler=order, persistent_workers=workers > 0, **more),
        order,
        evaluation(fold.held_out) if fold.held_out else None,
        evaluation(fold.test),
    )
