"""What the tests of the built-in models' making share with the others."""

from __future__ import annotations

import os

from development_data import shared_data

__all__ = ["shared_data"]

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
