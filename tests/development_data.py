"""Where the development data lies: a fixture for every tree of tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the development data: STREAMFER_SHARED_DATA, or ../shared/data beside the checkout."""
    chosen = os.environ.get("STREAMFER_SHARED_DATA")
    folder = Path(chosen) if chosen else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"development data absent: no folder {folder} (set STREAMFER_SHARED_DATA)")
    return folder
