"""The benchmark's own code, run through on the CPU with tiny shapes: what it prints and writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "kernels.py"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("sections", ["policy", pytest.param("right,short,whole,long", marks=pytest.mark.slow)])
def test_every_section_runs_and_is_written(sections: str, tmp_path: Path) -> None:
    done = run("--dry", "--sections", sections, OUT=str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "FAILED" not in done.stdout, done.stdout[-3000:]
    assert done.stdout.count(" done at ") == 1 + len(sections.split(","))
    found = json.loads((tmp_path / "kernels.json").read_text())
    assert {"policy"} <= found.keys() or {"right", "attention", "whole", "tracks"} <= found.keys()


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "needs a CUDA device" in done.stderr
