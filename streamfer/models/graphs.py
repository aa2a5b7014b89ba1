"""A function of a batch as CUDA graphs, one a batch size that runs: launches cost nothing, nothing waits for the GPU.

A batch is padded to the next recorded size; one larger than all of them goes in parts. Rows of padding hold what an
earlier batch left there, and are never returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

#: Batch sizes that are recorded.
BUCKETS = (1, 2, 4, 8, 16, 32)
#: Runs before recording: libraries choose their algorithms, Triton compiles.
WARM_UPS = 3
#: Host buffers that take turns, so that one is filled while the other is on its way.
_STAGES = 3

Function = Callable[[torch.Tensor], torch.Tensor]
#: Computes the batch that the input holds; what it returns, the next run may overwrite.
Run = Callable[[], torch.Tensor]


@dataclass(slots=True)
class Graphs:
    """Recorded batch sizes of one function, whose input has rows of ``shape`` on a CUDA device."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    _runs: dict[int, Run] = field(default_factory=dict)
    _input: torch.Tensor | None = None
    #: Page-locked host buffers, and when the last copy of each was done.
    _stages: list[tuple[torch.Tensor, torch.cuda.Event]] = field(default_factory=list)
    _turn: int = 0
    _pool: Any = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that are served without parts, ascending."""
        return tuple(sorted(self._runs))

    def rows(self, size: int) -> torch.Tensor:
        """Return the first ``size`` rows of the input that graphs read."""
        if self._input is None:
            self._input = torch.zeros((max(BUCKETS), *self.shape), dtype=self.dtype, device=self.device)
        return self._input[:size]

    def record(self, size: int, function: Function) -> Run:
        """Record ``function`` at a batch size; where it does not fit, smaller ones that were recorded still run.

        Raises:
            torch.OutOfMemoryError: the batch size does not fit; smaller ones that were recorded still run.
            RuntimeError: the function cannot be recorded.
        """
        rows = self.rows(size)
        before = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.device(self.device):
                side = torch.cuda.Stream(self.device)
                side.wait_stream(before)
                with torch.cuda.stream(side):
                    for _ in range(WARM_UPS):
                        function(rows)
                before.wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                # Other threads may use the GPU meanwhile: only this one is watched.
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    output = function(rows)
        finally:
            # A recording that breaks off leaves its own stream behind.
            torch.cuda.set_stream(before)

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay

    def plain(self, size: int, function: Function) -> Run:
        """Return ``function`` at a batch size, launched step by step."""
        return lambda: function(self.rows(size))

    def keep(self, size: int, run: Run) -> None:
        self._runs[size] = run

    def drop(self, smallest: int) -> None:
        """Forget batch sizes from ``smallest`` on and give their memory back."""
        self._runs = {size: run for size, run in self._runs.items() if size < smallest}
        torch.cuda.empty_cache()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the function of a batch, from the host or from the device; (B, ...) to (B, ...) on the device."""
        parts = []
        start = 0
        while start < len(batch):
            part = batch[start : start + max(self._runs)]
            try:
                parts.append(self._run(part))
            except torch.OutOfMemoryError:
                if len(self._runs) == 1:
                    raise
                self.drop(max(self._runs))
                continue
            start += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, part: torch.Tensor) -> torch.Tensor:
        size = min(size for size in self._runs if size >= len(part))
        self._fill(part)
        # The next replay overwrites the output; in the same stream, so only after this copy.
        return self._runs[size]()[: len(part)].clone()

    def _fill(self, part: torch.Tensor) -> None:
        target = self.rows(len(part))
        if part.device == self.device:
            target.copy_(part)
            return
        if not self._stages:
            host = [torch.empty((max(BUCKETS), *self.shape), dtype=self.dtype, pin_memory=True) for _ in range(_STAGES)]
            self._stages = [(rows, torch.cuda.Event()) for rows in host]
        rows, done = self._stages[self._turn]
        self._turn = (self._turn + 1) % _STAGES
        done.synchronize()
        rows[: len(part)].copy_(part)
        target.copy_(rows[: len(part)], non_blocking=True)
        done.record(torch.cuda.current_stream(self.device))
