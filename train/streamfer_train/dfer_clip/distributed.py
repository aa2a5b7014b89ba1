"""Processes that train together (torchrun): who they are, and the few words they exchange."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import distributed

from streamfer.errors import ConfigError
from streamfer.models.precision import choose_device

#: Long enough for one process to evaluate or save while others wait.
_PATIENCE = timedelta(minutes=60)


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are; 1 without torchrun.
        device: torch device of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and draws progress bars."""
        return self.rank == 0

    def sums(self, values: list[float]) -> list[float]:
        """Return the sums over all processes, the same in each."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def everyones(self, value: Any) -> list[Any]:
        """Return what each process brings, in the order of ranks, the same in each."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            distributed.barrier()


@contextlib.contextmanager
def joined(device: str = "auto", backend: Literal["auto", "nccl", "gloo"] = "auto") -> Iterator[World]:
    """Join the processes that torchrun started, or be alone.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; each process of torchrun takes the GPU of its local rank.
        backend: ``auto`` is nccl on GPUs and gloo on CPUs.

    Raises:
        ConfigError: torchrun's variables are incomplete, or more processes than GPUs.
        DeviceError: the device was asked for by name and is absent.
    """
    size = _variable("WORLD_SIZE", 1)
    chosen = torch.device(choose_device(device).device)
    if size == 1:
        yield World(0, 1, chosen)
        return
    rank, local = _variable("RANK", None), _variable("LOCAL_RANK", 0)
    if chosen.type == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"torchrun started process {local} of this machine, which has {torch.cuda.device_count()} GPU(s); "
                "lower --nproc-per-node, or set run.device: cpu"
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    picked = ("nccl" if chosen.type == "cuda" else "gloo") if backend == "auto" else backend
    distributed.init_process_group(picked, timeout=_PATIENCE)
    try:
        yield World(rank, size, chosen)
    finally:
        distributed.destroy_process_group()


def _variable(name: str, default: int | None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise ConfigError(f"environment variable {name} is {text!r}; start several processes with torchrun")
    return int(text)
