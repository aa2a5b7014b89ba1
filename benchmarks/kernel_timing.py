"""The environment that kernels are timed in, prepared before torch and Triton are imported, and two stop-watches.

With --dry Triton's interpreter runs on a CPU, and everything is called once.
"""
# ruff: noqa: E402

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
DRY = "--dry" in sys.argv
if DRY:
    os.environ["TRITON_INTERPRET"] = "1"
HOME = Path(tempfile.mkdtemp())
os.environ["XDG_CACHE_HOME"] = str(HOME)

import torch

DEVICE = torch.device("cpu" if DRY else "cuda")


def wait() -> None:
    """Let the GPU finish."""
    if not DRY:
        torch.cuda.synchronize()


def eager_us(call: Callable[[], object], calls: int = 50) -> float:
    """Median microseconds of a call, launches included."""
    calls, times = 1 if DRY else calls, []
    for _ in range(1 if DRY else 5):
        call()
    for _ in range(1 if DRY else 5):
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        times.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.median(times)


def graph_us(calls: list[Callable[[], object]]) -> float:
    """Median microseconds of one of the calls within a replayed CUDA graph of all of them."""
    if DRY:
        return eager_us(calls[0])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls * 3:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(25):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times[5:])
