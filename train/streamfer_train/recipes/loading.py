"""Loading what a training sees: an order that can go on in the middle, workers that keep to their core, and steps."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from streamfer.errors import UserError
from streamfer.threads import available_cores

log = logging.getLogger(__name__)

T = TypeVar("T")
Batch = dict[str, torch.Tensor]
Batch_co = TypeVar("Batch_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Draw:
    """Which sample is seen, and which of its random views."""

    epoch: int
    index: int
    repeat: int = 0


@dataclass(eq=False)
class TrainSampler(Sampler[Draw]):
    """The order of an epoch: whole batches only, the same global batches for any number of processes.

    A global batch is ``batch_size`` x ``world_size`` samples in a row of the epoch's order; every process takes each
    ``world_size``-th of them. What is left over at the end is not seen in that epoch (the authors' ``drop_last``).

    Args:
        labels: int64 (N,), class of each sample; without ``oversample`` any numbers.
        oversample: 0 sees each sample once; 1 draws all classes equally often; between, class frequencies are
            raised to the power 1 - ``oversample``. An epoch stays N samples long.
    """

    labels: NDArray[np.int64]
    _: KW_ONLY
    batch_size: int
    seed: int = 1
    rank: int = 0
    world_size: int = 1
    oversample: float = 0.0
    _epoch: int = 0
    _done: int = 0

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return len(self.labels) // (self.batch_size * self.world_size)

    def set_epoch(self, epoch: int, batches_done: int = 0) -> None:
        """Choose the epoch of the next iteration, and how many of its batches were seen before an interruption."""
        self._epoch, self._done = epoch, batches_done

    def __len__(self) -> int:
        return max(0, self.batches - self._done) * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        order = self.order()[: self.batches * self.batch_size * self.world_size]
        yield from order[self.rank :: self.world_size][self._done * self.batch_size :]

    def order(self) -> list[Draw]:
        """Return the whole epoch's order, of all processes."""
        rng = np.random.default_rng([self.seed, self._epoch])
        if not self.oversample:
            return [Draw(self._epoch, int(index)) for index in rng.permutation(len(self.labels))]
        draws: list[Draw] = []
        for label, quota in _quotas(self.labels, self.oversample).items():
            members = rng.permutation(np.flatnonzero(self.labels == label))
            # Every sample of a class as often as any other, give or take one.
            draws += [Draw(self._epoch, int(members[n % len(members)]), n // len(members)) for n in range(quota)]
        return [draws[place] for place in rng.permutation(len(draws))]


class Loader(DataLoader[Batch_co]):
    """A DataLoader whose workers start clean, keep to one thread, and whose user errors stay one line.

    Iterating draws a number from its own generator: the global one belongs to the model, and must not feel it.
    """

    def __init__(self, dataset: Dataset[Any], *, workers: int, seed: int = 0, **more: Any) -> None:
        super().__init__(
            dataset,
            num_workers=workers,
            # Forking a process that has threads (torch, OpenCV, ONNX Runtime) can hang the child for ever.
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_one_thread,
            generator=torch.Generator().manual_seed(seed),
            **more,
        )

    def __iter__(self) -> Iterator[Batch_co]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            last = str(error).strip().splitlines()[-1]
            raise type(error)(last.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")) from None


def _one_thread(_worker: int) -> None:
    """Keep a worker to its core: the workers are the parallelism."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def in_steps(batches: Iterable[T], size: int, steps: int) -> Iterator[list[T]]:
    """Yield the ``size`` micro-batches of each of ``steps`` steps, whole steps only, and read no batch beyond them."""
    source = iter(batches)
    for _ in range(steps):
        micro = list(islice(source, size))
        if len(micro) < size:
            return
        yield micro


def worker_count(wanted: int, world_size: int) -> int:
    """Return no more processes than this process's share of the cores: more of them only fight."""
    share = max(1, available_cores() // world_size)
    if wanted > share:
        log.info("data.workers", extra={"wanted": wanted, "used": share, "reason": "cores of this process"})
    return min(wanted, share)


def _quotas(labels: NDArray[np.int64], oversample: float) -> dict[int, int]:
    """Return how many samples of each class an oversampled epoch of the same length has (largest remainders)."""
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts.astype(np.float64) ** (1 - oversample)
    exact = shares / shares.sum() * len(labels)
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(-(exact - quotas), kind="stable")[: len(labels) - quotas.sum()]] += 1
    return {int(name): int(quota) for name, quota in zip(classes, quotas, strict=True)}
