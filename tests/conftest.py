"""Fixtures every room shares: where the development data lies, and a quiet, small thread budget."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests run beside each other on small machines: one thread per library keeps timings and memory predictable.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the development data; set STREAMFER_SHARED_DATA or keep it beside the checkout as ../shared/data."""
    chosen = os.environ.get("STREAMFER_SHARED_DATA")
    folder = Path(chosen) if chosen else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"development data absent: no folder {folder} (set STREAMFER_SHARED_DATA)")
    return folder
