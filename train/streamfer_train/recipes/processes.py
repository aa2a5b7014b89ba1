"""Processes that train together (torchrun): who they are, and the few words they exchange."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import distributed

from streamfer.errors import ConfigError, UserError
from streamfer.models.precision import choose_device

T = TypeVar("T")

#: Between the steps of training, where all processes do the same.
_PATIENCE = timedelta(minutes=60)
#: While one process works and the others wait: cutting the faces of a whole data set takes hours. A process that
#: ends is noticed at once all the same, because its connections close.
_LONG_PATIENCE = timedelta(days=30)


class PeerError(UserError):
    """Another process of this run has stopped, so this one does too."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes of a run."""

    rank: int
    size: int
    device: torch.device
    #: group of all processes for words instead of tensors, on the CPU; None where there is one process
    talk: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and draws progress bars."""
        return self.rank == 0

    def sums(self, values: list[float]) -> list[float]:
        """Return the sums over all processes, the same in each; a PeerError where another process has ended."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        with self._conversation():
            distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def everyones(self, value: Any) -> list[Any]:
        """Return what each process brings, by rank, the same in each; a PeerError where another process has ended."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._conversation():
            distributed.all_gather_object(found, value, group=self.talk)
        return found

    def share(self, work: Callable[[], T]) -> T:
        """Let the leading process work while the others wait, and return its result in all of them.

        Raises:
            PeerError: in the others, where the leading process failed; there the error itself is raised.
        """
        if self.size == 1:
            return work()
        if self.leads:
            try:
                result = work()
            except BaseException:
                # Whoever waits must hear of it before this process leaves.
                with contextlib.suppress(PeerError):
                    self._tell([False, None])
                raise
            self._tell([True, result])
            return result
        done, received = self._tell([None, None])
        if not done:
            raise PeerError(f"process {self.rank} stops because process 0 did, whose message says why")
        shared: T = received
        return shared

    def first(self, work: Callable[[], T]) -> T:
        """Let every process do the same, the leading one first, so a download happens once; raises as :meth:`share`."""
        done: list[T] = []
        self.share(lambda: done.append(work()))
        return done[0] if done else work()

    def _tell(self, message: list[Any]) -> list[Any]:
        with self._conversation():
            distributed.broadcast_object_list(message, src=0, group=self.talk, device=torch.device("cpu"))
        return message

    @contextlib.contextmanager
    def _conversation(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo's connections and nccl's errors alike
            raise PeerError(
                f"process {self.rank} stops because another one has ended; its message says why, or the system "
                f"killed it ({str(error).splitlines()[0][:120]})"
            ) from error


ALONE = ProcessGroup(0, 1, torch.device("cpu"))
"""One process, on the CPU."""


@contextlib.contextmanager
def joined(device: str = "auto", backend: Literal["auto", "nccl", "gloo"] = "auto") -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, or be alone.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; each process of torchrun takes the GPU of its local rank.
        backend: ``auto`` is nccl on GPUs and gloo on CPUs.

    Raises:
        ConfigError: torchrun's variables are incomplete, or more processes than GPUs.
    """
    size = _variable("WORLD_SIZE", 1)
    chosen = torch.device(choose_device(device).device)
    if size == 1:
        yield ProcessGroup(0, 1, chosen)
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
        yield ProcessGroup(rank, size, chosen, distributed.new_group(backend="gloo", timeout=_LONG_PATIENCE))
    finally:
        distributed.destroy_process_group()


def _variable(name: str, default: int | None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise ConfigError(f"environment variable {name} is {text!r}; start several processes with torchrun")
    return int(text)
