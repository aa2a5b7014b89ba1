"""One thread budget for the whole process tree.

torch, ONNX Runtime, OpenCV, FFmpeg and BLAS each take every core by default; together they fight for them,
which was measured to cost up to ten times the throughput. Here the cores are shared out once.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass

#: Read by OpenMP, OpenBLAS, MKL and numexpr when their libraries load, so set before the heavy imports.
POOL_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class ThreadBudget:
    """Threads each library may use."""

    total: int  #: cores that the process tree may keep busy
    decode: int  #: FFmpeg threads a source
    detect: int  #: threads of the face detector (ONNX Runtime intra-op, OpenCV)
    encode: int  #: threads of torch


def available_cores() -> int:
    """Return the cores that this process may use (affinity and cgroup quota, not the machine's count)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, quota) if quota else cores)


def plan_threads(total: int | None = None, sources: int = 1) -> ThreadBudget:
    """Share ``total`` cores (all available ones if None) among the stages.

    The stages run at the same time, one thread each at least. Detection and encoding take the bulk; a
    source decodes on one thread unless cores are plenty, since many sources decode side by side.
    """
    cores = total or available_cores()
    decode = max(1, min(4, cores // (4 * max(1, sources))))
    rest = max(1, cores - 1) if cores > 2 else cores
    detect = max(1, rest // 2)
    return ThreadBudget(total=cores, decode=decode, detect=detect, encode=max(1, rest - detect))


def apply_environment(budget: ThreadBudget, environment: MutableMapping[str, str] | None = None) -> None:
    """Set the pool sizes that libraries read when they load; a value the user set stays."""
    target = os.environ if environment is None else environment
    for name in POOL_VARIABLES:
        target.setdefault(name, str(max(budget.detect, budget.encode)))


def apply_libraries(budget: ThreadBudget) -> None:
    """Set the pool sizes of torch and OpenCV in this process; safe to call again."""
    import cv2
    import torch

    torch.set_num_threads(budget.encode)
    cv2.setNumThreads(budget.detect)


def _cgroup_quota() -> int | None:
    """Return the whole cores of a cgroup-v2 CPU quota, or None where there is none."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
