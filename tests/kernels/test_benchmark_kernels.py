"""The benchmark's own code, run through on the CPU with tiny shapes and no clock: what it prints and writes."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from references import DEVICE

import streamfer_kernels
from streamfer_kernels.backend import read_measurements

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

    def capture(head: Callable[..., torch.Tensor], ring: torch.Tensor, windows: int) -> Callable[..., torch.Tensor]:
        def call(indices: torch.Tensor) -> torch.Tensor:
            assert len(indices) == windows
            with streamfer_kernels.use("triton"):
                return head(ring, indices)

        return call

    shapes = [("temporal", 2, 2, 5, 5, 16, 2.0, 2.5, 1.5), ("prompts, causal", 2, 1, 35, 35, 24, 0.0, 0.0, 0.0)]
    for name, value in (
        ("DEVICE", DEVICE.type), ("SHAPES", shapes), ("WINDOWS", (1, 2)), ("ROWS", 20), ("DEPTH", 64),
        ("FRAME", (24, 32)), ("FACE_SIDE", 9), ("CROP_SIDE", 6), ("replay_ms", once), ("event_ms", once),
        ("ceilings", lambda: (4e12, 8e14)),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(streamfer_kernels.LabelHead, "capture", capture)
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Test GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=2**10))
    monkeypatch.setattr(streamfer_kernels, "backend_report", lambda: {"obstacle": None})
    return module


@pytest.mark.slow
def test_every_case_runs_and_lands_in_both_files(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, table = tmp_path / "RESULTS.md", tmp_path / "measured.json"
    out.write_text("# before\n")
    monkeypatch.setattr(
        sys, "argv", ["kernels.py", "--out", str(out), "--append", "--table", str(table), "--dtypes", "bf16"]
    )
    assert benchmark.main() == 0
    text = out.read_text()
    assert text.startswith("# before\n")
    assert "## Test GPU" in text
    assert "copy 4.00 TB/s" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    # forward, backward and both for two shapes, apart and packed; head and block at two sizes; three; two crops
    assert len(rows) == 2 * 2 * 3 + 4 + 3 + 2
    for row in rows:
        assert float(row[-1].strip(" |")) < 0.1, row
        assert "math" in row[6] or "compile" in row[6]
    lines = read_measurements(table.read_text())
    assert {line.operation for line in lines} == {
        "attention", "label_head", "temporal_block", "crop_faces", "residual_layer_norm", "quick_gelu", "gelu_tanh"
    }  # fmt: skip
    assert all(line.device == "Test GPU" for line in lines)
    first = json.loads(table.read_text())[0]
    assert first["sizes"] == {"queries": [5, 5], "keys": [5, 5], "head": [16, 16], "causal": [0, 0], "pairs": [4, None]}
    assert first["ratio"] > 1  # the clock of this test runs slower for each next rival


def test_a_table_keeps_other_cases_and_loses_wrong_results(benchmark: ModuleType, tmp_path: Path) -> None:
    def row(operation: str, dtype: str, ratio: float, error: float) -> Any:
        made = benchmark.Row(operation, dtype, 1.0, {"math": ratio}, error=error)
        made.measurement = benchmark.entry(operation, dtype, {"rows": [1, None]}, ratio)
        return made

    path = tmp_path / "measured.json"
    names = ("quick_gelu", "gelu_tanh", "attention")
    path.write_text(json.dumps(benchmark.merged(path, [row(name, "bf16", 2.0, 1e-3) for name in names])))
    assert len(read_measurements(path.read_text())) == 3
    rows = [
        row("quick_gelu", "bf16", 3.0, 1e-3),
        row("quick_gelu", "fp32", 4.0, 1e-7),
        row("gelu_tanh", "bf16", 9.0, float("nan")),
    ]
    path.write_text(json.dumps(benchmark.merged(path, rows)))
    found = {(line.operation, line.dtype): line.ratio for line in read_measurements(path.read_text())}
    assert found == {("attention", "bfloat16"): 2.0, ("quick_gelu", "bfloat16"): 3.0, ("quick_gelu", "float32"): 4.0}


def test_wrong_gradients_are_seen(benchmark: ModuleType) -> None:
    inputs = tuple(torch.randn(2, 1, 5, 16, device=DEVICE) for _ in range(3))

    def careless(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return benchmark.plain_attention(q, k.detach() + 0 * k, v, False)

    for call, right in ((lambda *t: benchmark.plain_attention(*t, False), True), (careless, False)):
        forward, backward = benchmark.errors(call, inputs, 1, False, False)
        assert forward < 1e-5
        assert (backward < benchmark.WRONG) == right


@pytest.mark.parametrize("pixel_format", ["nv12", "rgb"])
def test_the_usual_crops_are_the_same_crops(benchmark: ModuleType, pixel_format: Any) -> None:
    planar = pixel_format == "nv12"
    shape = (2, 36, 32) if planar else (2, 24, 32, 3)
    frames = torch.randint(100, 140, shape, dtype=torch.uint8, device=DEVICE)
    matrices = torch.zeros(4, 2, 3, device=DEVICE)
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1
    matrices[:, :, 2] = -torch.arange(4, device=DEVICE)[:, None]
    found = benchmark.convert_and_sample(frames, matrices, 8, planar)
    # A whole frame's chroma is enlarged about its centres, which is what "centre" says.
    expected = streamfer_kernels.crop_faces(
        frames, matrices, 8, frame_index=torch.arange(4, device=DEVICE) // 2, pixel_format=pixel_format, chroma="centre"
    )
    assert float((found - expected).abs().max()) < 0.01


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
