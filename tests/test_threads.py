"""One thread budget: shares that never exceed it by more than the one thread each stage needs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfer import threads
from streamfer.threads import ThreadBudget, apply_environment, apply_libraries, available_cores, plan_threads


@given(st.integers(1, 256), st.integers(1, 64))
def test_shares_stay_within_the_budget(total: int, sources: int) -> None:
    budget = plan_threads(total, sources)
    assert budget.total == total
    assert min(budget.decode, budget.detect, budget.encode) >= 1
    # Two cores or fewer: each stage has its one thread all the same.
    assert budget.detect + budget.encode <= max(2, total)
    if sources <= total // 4:
        assert budget.detect + budget.encode + sources * budget.decode <= max(3, total + total // 4)
    else:
        assert budget.decode == 1


@pytest.mark.parametrize(
    ("total", "sources", "shares"),
    [
        (1, 1, (1, 1, 1)),
        (2, 1, (1, 1, 1)),
        (4, 1, (1, 1, 2)),
        (16, 1, (4, 7, 8)),
        (16, 8, (1, 7, 8)),
        (64, 1, (4, 31, 32)),
    ],
)
def test_known_plans(total: int, sources: int, shares: tuple[int, int, int]) -> None:
    assert plan_threads(total, sources) == ThreadBudget(total, *shares)


def test_all_available_cores_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 12)
    assert plan_threads().total == 12
    assert plan_threads() == ThreadBudget(total=12, decode=3, detect=5, encode=6)


@pytest.mark.parametrize(("affinity", "quota", "cores"), [(8, None, 8), (8, 2, 2), (2, 8, 2), (1, 1, 1)])
def test_containers_and_affinity_are_respected(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: int | None, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(threads, "_cgroup_quota", lambda: quota)
    assert available_cores() == cores


def test_the_environment_is_set_where_the_user_did_not() -> None:
    environment = {"OMP_NUM_THREADS": "7", "PATH": "/bin"}
    apply_environment(ThreadBudget(total=8, decode=1, detect=3, encode=4), environment)
    assert environment == {
        "OMP_NUM_THREADS": "7",
        "OPENBLAS_NUM_THREADS": "4",
        "MKL_NUM_THREADS": "4",
        "NUMEXPR_NUM_THREADS": "4",
        "PATH": "/bin",
    }


def test_libraries_follow() -> None:
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        apply_libraries(ThreadBudget(total=8, decode=1, detect=2, encode=3))
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (3, 2)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def test_the_budget_is_set_before_torch_is_loaded() -> None:
    script = (
        "import sys, os; from streamfer.cli.options import configure; os.environ.pop('OMP_NUM_THREADS', None); "
        "configure(None, {'threads': 1}); print(os.environ['OMP_NUM_THREADS'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
