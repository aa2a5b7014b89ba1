"""Batches: full ones of whole items, in order, and no waiting behind the end of a source."""

from __future__ import annotations

import queue
import time

import numpy as np
import pytest
from scenes import facts_at

from streamfer.config import Config, configure
from streamfer.pipeline.batcher import Batcher
from streamfer.pipeline.items import AnalysedFrame, Ended, Item
from streamfer.pipeline.loop import longest_wait

END = Ended("a", None, False, 0, 0)


def frame(tick: int, faces: int) -> AnalysedFrame:
    crops = np.zeros((faces, 4, 4, 3), np.uint8)
    return AnalysedFrame("a", 0, tick, facts_at(tick), (), (), (), crops, ())


def batches(items: list[Item], *, max_crops: int, max_wait: float = 0.0) -> list[list[int]]:
    waiting: queue.Queue[Item] = queue.Queue()
    for item in items:
        waiting.put(item)
    batcher, found, taken = Batcher(waiting, max_crops=max_crops, max_wait=max_wait), [], 0
    while taken < len(items):
        batch = batcher.next()
        assert batch == items[taken : taken + len(batch)]
        taken += len(batch)
        found.append([len(item.crops) if isinstance(item, AnalysedFrame) else -1 for item in batch])
    return found


def test_batches_hold_no_more_crops_than_wanted_and_lose_nothing() -> None:
    items: list[Item] = [frame(tick, faces) for tick, faces in enumerate((1, 2, 1, 3, 0, 2, 9, 1))]
    assert batches(items, max_crops=4) == [[1, 2, 1], [3, 0], [2], [9], [1]]


def test_the_end_of_a_source_closes_a_batch_at_once() -> None:
    began = time.monotonic()
    assert batches([frame(0, 1), END, frame(0, 1), END], max_crops=16, max_wait=60) == [[1, -1], [1, -1]]
    assert time.monotonic() - began < 30


def test_the_busier_the_encoder_the_longer_crops_wait_but_never_long() -> None:
    waits = [longest_wait(Config(), busy) for busy in (0.0, 0.1, 0.375, 1.0)]
    assert waits == pytest.approx([0.02, 0.02, 0.06, 0.16])
    assert longest_wait(configure(Config(), model__batch_wait=0.1), 1.0) == 0.25
