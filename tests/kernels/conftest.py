"""Kernels run compiled on a GPU where there is one, else in Triton's interpreter; fresh memory is poisoned."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent))

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]  # only PyTorch's implementations are here


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Fill what torch.empty and its kin return with NaN: an element that no kernel writes shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.ones(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture
def triton() -> Iterator[None]:
    """Force Triton for a test."""
    from streamfer_kernels import use

    with use("triton"):
        yield
