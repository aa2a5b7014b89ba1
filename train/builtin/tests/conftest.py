"""What the tests of the built-in models' making share with the others."""

from __future__ import annotations

import os

import hypothesis
from development_data import shared_data

__all__ = ["shared_data"]

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# How long an example takes says how busy the machine is, not whether the code is right. The examples are the same in
# every run: what fails was changed. Others are drawn with --hypothesis-profile=default.
_slow = hypothesis.HealthCheck.too_slow
hypothesis.settings.register_profile("any-machine", deadline=None, derandomize=True, suppress_health_check=[_slow])
hypothesis.settings.load_profile("any-machine")
