"""Clips as batches: a dataset without state, samplers that can resume in the middle of an epoch, and loaders.

What a clip looks like is a pure function of (seed, epoch, index, repeat): whoever resumes, in whichever number of
processes, sees the same pixels.

Shape suffixes: B clips, T frames, S side, A action units.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from streamfer.errors import ConfigError
from streamfer.threads import available_cores
from streamfer_train.dfer_clip.augment import draw_view, render, whole_view
from streamfer_train.dfer_clip.data_config import DataConfig
from streamfer_train.dfer_clip.entries import Clip
from streamfer_train.dfer_clip.folds import Fold
from streamfer_train.dfer_clip.frames import read_clip
from streamfer_train.recipes.loading import Loader

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Draw:
    """Which clip is seen, and which of its random views."""

    epoch: int
    index: int
    repeat: int = 0


class Sample(TypedDict):
    """What the dataset returns; a batch has the same keys and one dimension, B, more.

    ``pixels``: uint8 (T, 3, S, S) RGB; divided by 255 they are what the authors' model reads (no mean, no std).
    ``label``: int64 (), place in ``Fold.classes``. ``index``: int64 (), place in the list of clips.
    ``valence_arousal``: float32 (2,), NaN where absent. ``actions``: float32 (A,), NaN where absent.
    """

    pixels: Tensor
    label: Tensor
    index: Tensor
    valence_arousal: Tensor
    actions: Tensor


class ClipDataset(Dataset[Sample]):
    """Clips by index (test sampling and view) or, for training, by :class:`Draw`.

    Args:
        clips: clips that were checked.
        config: frames, size, augmentation.
        training: random positions and views; an int then stands for ``Draw(epoch, index)`` of :meth:`set_epoch`.
        seed: of the random positions and views.
    """

    def __init__(self, clips: Sequence[Clip], config: DataConfig, *, training: bool, seed: int = 1) -> None:
        self.clips = tuple(clips)
        self.config = config
        self.training = training
        self.seed = seed
        self.epoch = 0
        places = {name: place for place, name in enumerate(config.class_names)}
        self.labels = np.array([places[clip.label] for clip in self.clips], np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch plain indices belong to; the samplers' draws carry their own."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | Draw) -> Sample:
        """Return one clip.

        Raises:
            SourceUnreadableError: a frame of it cannot be read.
        """
        draw = key if isinstance(key, Draw) else Draw(self.epoch, key)
        clip = self.clips[draw.index]
        rng = random.Random(f"{self.seed}.{draw.epoch}.{draw.index}.{draw.repeat}") if self.training else None
        pictures = read_clip(clip, self.config.frames, rng)
        height, width = pictures[0].shape[:2]
        size = self.config.size
        view = (
            whole_view(width, height)
            if rng is None
            else draw_view(self.config.augmentation_name, width, height, size, rng)
        )
        affect = [np.nan if value is None else value for value in (clip.valence, clip.arousal)]
        return Sample(
            pixels=render(view, pictures, size),
            label=torch.tensor(self.labels[draw.index]),
            index=torch.tensor(draw.index),
            valence_arousal=torch.tensor(affect, dtype=torch.float32),
            actions=torch.tensor(clip.actions, dtype=torch.float32),
        )


class TrainSampler(Sampler[Draw]):
    """The order of an epoch: whole batches only, the same global batches for any number of processes.

    A global batch is ``batch_size`` x ``world_size`` clips in a row of the epoch's order; every process takes each
    ``world_size``-th of them. What is left over at the end is not seen in that epoch (the authors' ``drop_last``).

    Args:
        labels: int64 (N,), class of each clip.
        batch_size: clips of one process a batch.
        seed: of the order.
        rank, world_size: which process of how many.
        oversample: 0 sees each clip once; 1 draws all classes equally often; between, class frequencies are
            raised to the power 1 - ``oversample``. An epoch stays N clips long.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int = 1,
        rank: int = 0,
        world_size: int = 1,
        oversample: float = 0.0,
    ) -> None:
        self._labels = labels
        self._batch = batch_size
        self._seed = seed
        self._rank = rank
        self._world = world_size
        self._oversample = oversample
        self._epoch = 0
        self._done = 0

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return len(self._labels) // (self._batch * self._world)

    def set_epoch(self, epoch: int, batches_done: int = 0) -> None:
        """Choose the epoch of the next iteration, and how many of its batches were seen before an interruption."""
        self._epoch, self._done = epoch, batches_done

    def __len__(self) -> int:
        return max(0, self.batches - self._done) * self._batch

    def __iter__(self) -> Iterator[Draw]:
        order = self.order()[: self.batches * self._batch * self._world]
        yield from order[self._rank :: self._world][self._done * self._batch :]

    def order(self) -> list[Draw]:
        """Return the whole epoch's order, of all processes."""
        rng = np.random.default_rng([self._seed, self._epoch])
        if not self._oversample:
            return [Draw(self._epoch, int(index)) for index in rng.permutation(len(self._labels))]
        draws: list[Draw] = []
        for label, quota in _quotas(self._labels, self._oversample).items():
            members = rng.permutation(np.flatnonzero(self._labels == label))
            # Every clip of a class as often as any other, give or take one.
            draws += [Draw(self._epoch, int(members[n % len(members)]), n // len(members)) for n in range(quota)]
        return [draws[place] for place in rng.permutation(len(draws))]


class EvaluationSampler(Sampler[Draw]):
    """Every clip once, in order; of several processes each takes every ``world_size``-th, none twice."""

    def __init__(self, length: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._draws = [Draw(0, index) for index in range(rank, length, world_size)]

    def __len__(self) -> int:
        return len(self._draws)

    def __iter__(self) -> Iterator[Draw]:
        return iter(self._draws)


@dataclass(frozen=True, slots=True)
class Loaders:
    """The loaders of one fold; ``held_out`` is None where nothing is held out."""

    train: Loader[Sample]
    train_sampler: TrainSampler
    held_out: Loader[Sample] | None
    test: Loader[Sample]


def build_loaders(
    config: DataConfig,
    fold: Fold,
    *,
    batch_size: int,
    evaluation_batch: int | None = None,
    seed: int = 1,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Loaders:
    """Build the loaders of one process.

    Call ``train_sampler.set_epoch(epoch, batches_done)`` before each epoch.

    Args:
        config: the recipe's data section.
        fold: clips that were checked (:func:`streamfer_train.dfer_clip.checks.check_clips`).
        batch_size: training clips a batch and process.
        evaluation_batch: clips a batch otherwise; ``batch_size`` if unset.
        seed: of order, positions and views.
        rank, world_size: which process of how many.
        pin_memory: for a CUDA device.

    Raises:
        ConfigError: the training list is shorter than one batch, or the test list is empty.
    """
    train = ClipDataset(fold.train, config, training=True, seed=seed)
    sampler = TrainSampler(
        train.labels,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        oversample=config.oversample,
    )
    if sampler.batches == 0:
        raise ConfigError(
            f"fold {fold.number}: {len(fold.train)} training clips are less than one batch of "
            f"{batch_size * world_size}; lower the batch size"
        )
    if not fold.test:
        raise ConfigError(f"fold {fold.number}: the test list has no clip that can be used")

    def loader(dataset: ClipDataset, order: Sampler[Draw], batch: int) -> Loader[Sample]:
        return Loader(
            dataset,
            batch_size=batch,
            sampler=order,
            workers=workers,
            seed=seed,
            prefetch_factor=config.prefetch if workers else None,
            # Those of evaluation end with it, so that they take no memory from training.
            persistent_workers=workers > 0 and dataset.training,
            pin_memory=pin_memory,
        )

    workers = _worker_count(config.workers, world_size)

    def evaluation(clips: Sequence[Clip]) -> Loader[Sample]:
        dataset = ClipDataset(clips, config, training=False, seed=seed)
        order = EvaluationSampler(len(dataset), rank=rank, world_size=world_size)
        return loader(dataset, order, evaluation_batch or batch_size)

    return Loaders(
        train=loader(train, sampler, batch_size),
        train_sampler=sampler,
        held_out=evaluation(fold.held_out) if fold.held_out else None,
        test=evaluation(fold.test),
    )


def _worker_count(wanted: int, world_size: int) -> int:
    """Return no more processes than this process's share of the cores: more of them only fight."""
    share = max(1, available_cores() // world_size)
    if wanted > share:
        log.info("data.workers", wanted=wanted, used=share, reason="cores of this process")
    return min(wanted, share)


def _quotas(labels: NDArray[np.int64], oversample: float) -> dict[int, int]:
    """Return how many clips of each class an oversampled epoch of the same length has (largest remainders)."""
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts.astype(np.float64) ** (1 - oversample)
    exact = shares / shares.sum() * len(labels)
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(-(exact - quotas), kind="stable")[: len(labels) - quotas.sum()]] += 1
    return {int(name): int(quota) for name, quota in zip(classes, quotas, strict=True)}
