"""Loading what a training sees: worker processes that keep to their core, and batches grouped into steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from streamfer.errors import UserError

T = TypeVar("T")
Batch_co = TypeVar("Batch_co", covariant=True)


class Loader(DataLoader[Batch_co]):
    """A DataLoader whose workers start clean, keep to one thread, and whose user errors stay one line.

    Args:
        dataset: what is loaded.
        workers: processes that load; 0 loads in this one.
        seed: of the loader's own generator. Iterating draws a number from it; the global one belongs to the model,
            and must not feel it.
        more: everything else that DataLoader takes.
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
        """Yield batches.

        Raises:
            UserError: as the dataset raised it, without the worker's traceback.
        """
        try:
            yield from super().__iter__()
        except UserError as error:
            last = str(error).strip().splitlines()[-1]
            raise type(error)(last.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")) from None


def _one_thread(worker: int) -> None:
    """Keep a worker to its core: the workers are the parallelism."""
    del worker
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def in_steps(batches: Iterable[T], size: int, steps: int) -> Iterator[list[T]]:
    """Yield the ``size`` micro-batches of each of ``steps`` steps, whole steps only, and read no batch beyond them."""
    if steps < 1:
        return
    source = iter(batches)
    for _ in range(steps):
        micro = list(islice(source, size))
        if len(micro) < size:
            return
        yield micro
