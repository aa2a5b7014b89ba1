"""The benchmark's own code, run through on the CPU with tiny shapes and no clock: what it prints and writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from references import DEVICE

import streamfer_kernels

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "kernels.py"


def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    specification = importlib.util.spec_from_file_location("benchmark_of_kernels", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "benchmark_of_kernels", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module that thinks it has a small GPU."""
    torch.use_deterministic_algorithms(False)
    module = load(monkeypatch)

    def once(calls: Any) -> float:
        for call in calls if isinstance(calls, list) else [calls]:
            call()
        once.time += 1.0  # type: ignore[attr-defined]
        return once.time  # type: ignore[attr-defined,no-any-return]

    once.time = 0.0  # type: ignore[attr-defined]

    shapes = [("temporal", 2, 2, 5, 5, 16, 2.0, 2.5), ("Q-Former", 2, 1, 9, 35, 24, 0.0, 0.0)]
    for name, value in (
        ("DEVICE", DEVICE.type), ("SHAPES", shapes), ("replay_ms", once), ("event_ms", once),
        ("ceilings", lambda: (4e12, 8e14)),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Test GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=2**10))
    monkeypatch.setattr(streamfer_kernels, "backend_report", lambda: {"obstacle": None})
    return module


def test_every_case_runs_and_is_written(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "RESULTS.md"
    out.write_text("# before\n")
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--out", str(out), "--append", "--dtypes", "bf16"])
    assert benchmark.main() == 0
    text = out.read_text()
    assert text.startswith("# before\n")
    assert "## Test GPU" in text
    assert "copy 4.00 TB/s" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 3  # apart and packed; queries on other keys apart only
    for row in rows:
        assert float(row[-1].strip(" |")) < 0.1, row
        assert "math" in row[6] or "compile" in row[6]
        assert float(row[4]) > 1  # the clock of this test runs slower for each next rival


def test_wrong_results_end_in_status_1(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = benchmark.attention_calls

    def careless(heads: int, packed: bool) -> Any:
        mine, rivals = original(heads, packed)
        return (lambda *inputs: 0.5 * mine(*inputs)) if packed else mine, rivals

    monkeypatch.setattr(benchmark, "attention_calls", careless)
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--dtypes", "fp32", "--only", "temporal"])
    assert benchmark.main() == 1
    assert "wrong results, not rounding: temporal 5 on 5 x 16, 4 pairs, packed fp32" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "RESULTS.md"
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--out", str(out)])
    assert load(monkeypatch).main() == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "needs a CUDA device" in shown.err
    assert not out.exists()
