"""Two processes that share the batches of a stage of mini train as one does, and one may go on where they stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_stage
from free_ports import torchrun_variables
from torch import Tensor

from streamfer_builtin.mini import checkpoint
from streamfer_train.recipes.processes import joined


def _together(folder: Path, until: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Train in this process and another, started as torchrun would; returns the rows that each was given."""
    for name, value in torchrun_variables().items():
        patch.setenv(name, value)
    other = subprocess.Popen(
        [sys.executable, toy_stage.__file__, str(folder), str(until)],
        env={**os.environ, "RANK": "1", "LOCAL_RANK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with joined("cpu") as world:
            mine = toy_stage.train(folder / "0.pt", until, world).rows
        said = other.communicate(timeout=120)[0]
    finally:
        other.kill()
    assert other.returncode == 0, said
    return [f"rows {' '.join(map(str, mine))}", *(line for line in said.splitlines() if line.startswith("rows"))]


def _weights(path: Path) -> dict[str, Tensor]:
    state = checkpoint.load(path, "toy")
    kinds = ("model", "average")
    return {f"{kind}.{name}": tensor for kind in kinds for name, tensor in state[kind].items()}


def test_two_processes_train_as_one_and_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = toy_stage.train(tmp_path / "alone.pt", 2)
    assert alone.rows == [8] * 12
    shared = _together(tmp_path, 2, monkeypatch)
    # Each saw its half of every batch, and only the first one wrote.
    assert shared == ["rows" + " 4" * 12] * 2
    assert not (tmp_path / "1.pt").exists()
    assert checkpoint.load(tmp_path / "0.pt", "toy")["epoch"] == 2
    torch.testing.assert_close(_weights(tmp_path / "0.pt"), _weights(tmp_path / "alone.pt"), rtol=1e-4, atol=1e-5)

    for name in ("alone.pt", "0.pt"):
        assert toy_stage.train(tmp_path / name, 3).rows == [8] * 6
    ended = _weights(tmp_path / "alone.pt")
    torch.testing.assert_close(_weights(tmp_path / "0.pt"), ended, rtol=1e-4, atol=1e-5)
    # All three have learned something: the plane's slopes are 1, -2 and 3.
    assert ended["model.weight"].tolist()[0] == pytest.approx([1, -2, 3], abs=0.7)
