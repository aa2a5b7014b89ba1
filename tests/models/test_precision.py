"""Device and precision: what is chosen, why, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamfer.errors import ConfigError, DeviceError
from streamfer.models import precision
from streamfer.models.precision import DTYPES, choose_device, choose_precision, cpu_flags


def _cuda(monkeypatch: pytest.MonkeyPatch, count: int, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _=0: "NVIDIA Test")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _cuda(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").device == "cpu"
    assert choose_device("cpu").device == "cpu"
    for request in ("cuda", "cuda:1", "mps"):
        with pytest.raises(DeviceError, match=request):
            choose_device(request)


def test_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    _cuda(monkeypatch, 2)
    assert choose_device("auto").device == "cuda:0"
    assert choose_device("cuda").device == "cuda:0"
    assert choose_device("cuda:1").device == "cuda:1"
    assert "NVIDIA Test" in choose_device("auto").reason
    with pytest.raises(DeviceError, match=r"'cuda:2' was asked for, but 2 CUDA"):
        choose_device("cuda:2")


def test_apple(monkeypatch: pytest.MonkeyPatch) -> None:
    _cuda(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").device == choose_device("mps").device == "mps"
    assert choose_precision("auto", "mps").precision == "fp32"


@pytest.mark.parametrize("request_", ["gpu", "cuda:x", "cuda:-1", ""])
def test_what_is_no_device(request_: str) -> None:
    with pytest.raises(ConfigError, match="not a device"):
        choose_device(request_)


@pytest.mark.parametrize(
    ("flags", "expected", "reason"),
    [
        ("flags : fpu avx512f avx512_bf16 amx_bf16", "bf16", "AMX"),
        ("flags : fpu avx512f avx512_bf16", "bf16", "AVX512-BF16"),
        ("Features : fp asimd bf16", "bf16", "Arm"),
        ("flags : fpu avx2 avx512f", "fp32", "no bf16"),
        ("", "fp32", "no bf16"),
    ],
)
def test_the_cpu_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, expected: str, reason: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(precision, "cpu_flags", lambda: cpu_flags(cpuinfo))
    choice = choose_precision("auto", "cpu")
    assert choice.precision == expected
    assert reason in choice.reason


def test_a_machine_without_cpuinfo(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "absent") == frozenset()


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "fp32")]
)
def test_the_gpu_decides(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str) -> None:
    _cuda(monkeypatch, 1, capability)
    assert choose_precision("auto", "cuda:0").precision == expected


def test_asked_for() -> None:
    assert DTYPES[choose_precision("bf16", "cpu").precision] == torch.bfloat16
    assert DTYPES[choose_precision("fp32", "cuda:0").precision] == torch.float32
    with pytest.raises(ConfigError, match="fp16"):
        choose_precision("fp16", "cpu")
    with pytest.raises(ConfigError, match="int4"):
        choose_precision("int4", "cpu")
