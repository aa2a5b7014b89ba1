"""Gathering crops of all sources and tracks into batches."""

from __future__ import annotations

import queue
import time

from streamfer.pipeline.items import AnalysedFrame, Ended, Item


class Batcher:
    """Takes items from the shared queue until enough crops are together or the oldest has waited long enough.

    A batch closes at a maximum number of crops, a maximum wait or the end of a source; it never waits for a particular
    source. The order of items is kept.

    Args:
        max_crops: most crops of a batch, which may change; one frame with more faces makes a larger batch.
        max_wait: seconds the first item of a batch may wait for others, likewise.
    """

    def __init__(self, items: queue.Queue[Item], *, max_crops: int, max_wait: float) -> None:
        self._items = items
        self.max_crops = max_crops
        self.max_wait = max_wait
        self._held: Item | None = None

    def next(self, seconds: float | None = None) -> list[Item]:
        """Return the next batch; waits for its first item, and returns none after ``seconds``."""
        try:
            batch = [self._held or self._items.get(timeout=seconds)]
        except queue.Empty:
            return []
        self._held = None
        crops = _crops(batch[0])
        deadline = time.monotonic() + self.max_wait
        while crops < self.max_crops and not isinstance(batch[-1], Ended):
            try:
                item = self._items.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if crops + _crops(item) > self.max_crops:
                self._held = item
                break
            batch.append(item)
            crops += _crops(item)
        return batch


def _crops(item: Item) -> int:
    return len(item.crops) if isinstance(item, AnalysedFrame) else 0
