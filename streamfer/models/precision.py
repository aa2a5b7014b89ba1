"""Which device and which number format the image encoder runs in, and why; measured in docs/performance.md."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from streamfer.errors import ConfigError, DeviceError

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPUINFO = Path("/proc/cpuinfo")


class DeviceChoice(NamedTuple):
    """A resolved device and the reason for it, as ``streamfer doctor`` prints it."""

    device: str
    reason: str


class PrecisionChoice(NamedTuple):
    """A resolved precision and the reason for it, likewise."""

    precision: Precision
    reason: str


def _cuda_index(request: str) -> int:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    suffix = request.partition(":")[2] or "0"
    if not suffix.isdecimal():
        raise ConfigError(f"device {request!r} is not a device; expected auto, cpu, cuda, cuda:N or mps")
    if int(suffix) >= count:
        found = f"{count} CUDA device(s) found" if count else "no CUDA device found"
        raise DeviceError(f"device {request!r} was asked for, but {found}; ask for auto or cpu")
    return int(suffix)


def choose_device(request: str = "auto") -> DeviceChoice:
    """Resolve ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` to a torch device.

    Raises:
        DeviceError: the device was asked for by name and is absent.
        ConfigError: not a device name.
    """
    if request == "cpu":
        return DeviceChoice("cpu", "asked for")
    if request == "cuda" or request.startswith("cuda:"):
        index = _cuda_index(request)
        return DeviceChoice(f"cuda:{index}", f"asked for: {torch.cuda.get_device_name(index)}")
    if request == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("device 'mps' was asked for, but this is no Apple GPU; ask for auto or cpu")
        return DeviceChoice("mps", "asked for")
    if request != "auto":
        raise ConfigError(f"device {request!r} is not a device; expected auto, cpu, cuda, cuda:N or mps")
    if torch.cuda.is_available() and torch.cuda.device_count():
        return DeviceChoice("cuda:0", f"first CUDA device: {torch.cuda.get_device_name(0)}")
    if torch.backends.mps.is_available():
        return DeviceChoice("mps", "Apple GPU")
    return DeviceChoice("cpu", "no GPU found")


@cache
def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Return the first processor's feature flags as Linux names them; empty where there is no such file."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split())


def _cpu_choice(flags: frozenset[str]) -> PrecisionChoice:
    for flag, words in (("amx_bf16", "AMX-BF16"), ("avx512_bf16", "AVX512-BF16"), ("bf16", "Arm BF16")):
        if flag in flags:
            return PrecisionChoice("bf16", f"the CPU multiplies bf16 in hardware ({words})")
    return PrecisionChoice("fp32", "the CPU has no bf16 arithmetic (neither AMX-BF16 nor AVX512-BF16)")


def choose_precision(request: str = "auto", device: str = "cpu") -> PrecisionChoice:
    """Resolve ``auto``, ``fp32``, ``bf16`` or ``fp16`` for a device that :func:`choose_device` returned.

    bf16 on CPUs and GPUs that have it in hardware, fp16 on older CUDA devices with tensor cores, else fp32.

    Raises:
        ConfigError: not a precision, or fp16 on a CPU.
    """
    if request != "auto":
        if request not in DTYPES:
            raise ConfigError(f"precision {request!r} is unknown; expected auto, {', '.join(DTYPES)}")
        if request == "fp16" and device == "cpu":
            raise ConfigError("precision 'fp16' is for GPUs; on a CPU use auto, bf16 or fp32")
        return PrecisionChoice(request, "asked for")
    if device == "cpu":
        return _cpu_choice(cpu_flags())
    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return PrecisionChoice("bf16", f"compute capability {major}.{minor} has bf16 tensor cores")
        if major >= 7:
            return PrecisionChoice("fp16", f"compute capability {major}.{minor} has fp16 tensor cores only")
        return PrecisionChoice("fp32", f"compute capability {major}.{minor} has no tensor cores")
    return PrecisionChoice("fp32", f"no measured gain on {device}")
