"""Busy time by stage: where a run's seconds went, and the numbers that benchmarks and summaries print."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Adds up how long each stage was at work; safe to use from several threads.

    Stages of different threads overlap, so their sum may exceed the elapsed time: that is the point of
    running them side by side.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._counts, self._calls = Counter[str](), Counter[str]()

    @contextmanager
    def measure(self, stage: str, items: int = 1) -> Iterator[None]:
        """Count the time inside the ``with`` block, and ``items`` pieces of work, towards ``stage``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began, items)

    def add(self, stage: str, seconds: float, items: int = 1) -> None:
        """Count ``seconds`` and ``items`` towards ``stage``."""
        with self._lock:
            self._seconds[stage] += seconds
            self._counts[stage] += items
            self._calls[stage] += 1

    @property
    def seconds(self) -> dict[str, float]:
        """Busy seconds by stage so far."""
        with self._lock:
            return dict(self._seconds)

    @property
    def calls(self) -> dict[str, int]:
        """How often each stage was at work so far."""
        with self._lock:
            return dict(self._calls)

    @property
    def counts(self) -> dict[str, int]:
        """Pieces of work by stage so far."""
        with self._lock:
            return dict(self._counts)
