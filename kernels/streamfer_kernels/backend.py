"""Which implementation runs: Triton's kernels or PyTorch's own, by rule or by force.

Three modes: in ``auto`` (the default) a single call runs PyTorch, and whoever drives a whole model measures and asks
for Triton by name; ``torch`` and ``triton`` force one. The mode comes from the variable STREAMFER_KERNELS (auto, off
or on), read at import, and from :func:`use`; it belongs to the process, not to a thread. Triton cannot run on CPU
tensors (outside its interpreter, TRITON_INTERPRET=1), so even ``triton`` gives PyTorch there, and
:func:`backend_report` says why.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from typing import Any, Literal, get_args

import torch

Mode = Literal["auto", "torch", "triton"]
Backend = Literal["torch", "triton"]

VARIABLE = "STREAMFER_KERNELS"
#: Compute capability from which the kernels are meant to run: bf16 and asynchronous copies.
OLDEST_CAPABILITY = (8, 0)


def _mode_from_environment() -> Mode:
    found = os.environ.get(VARIABLE, "auto")
    modes: dict[str, Mode] = {"auto": "auto", "off": "torch", "on": "triton"}
    if found not in modes:
        raise ValueError(f"{VARIABLE} is {found!r}; expected auto, off or on")
    return modes[found]


_mode: Mode = _mode_from_environment()


@cache
def triton_version() -> str | None:
    """Version of Triton, or None where it is not installed; importing it to ask would take half a second."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:  # vendors ship it under other names
        return "of an unknown version"


@cache
def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors (TRITON_INTERPRET=1 at import)."""
    if triton_version() is None or not os.environ.get("TRITON_INTERPRET"):
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


def obstacle(device: torch.device) -> str | None:
    """Return why Triton cannot run on a device, or None: what can be known without a launch."""
    return _cached_obstacle(device)


# What torch.compiler.assume_constant_result does, without importing the compiler (a second) for all who do not compile.
obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _cached_obstacle(device: torch.device) -> str | None:
    if triton_version() is None:
        return "Triton is not installed"
    if device.type == "cpu":
        return None if interpreting() else "CPU tensors"
    if device.type != "cuda":
        return f"{device.type} tensors"
    if torch.version.hip is not None:
        return "never run on AMD GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]} is older than {OLDEST_CAPABILITY[0]}.0"
    return None


def runs_triton(device: torch.device, wanted: Backend | None = None) -> bool:
    """Tell whether a call on a device runs Triton: where it can, and ``wanted``, or else the mode, says so.

    Raises:
        ValueError: no such backend.
    """
    if wanted not in (None, "torch", "triton"):
        raise ValueError(f"backend is {wanted!r}; expected torch, triton or None")
    return (wanted or _mode) == "triton" and obstacle(device) is None


@contextlib.contextmanager
def use(wanted: Mode) -> Iterator[None]:
    """Force an implementation, or go back to ``auto``, in a ``with`` block; holds for the whole process.

    Raises:
        ValueError: not a mode.
    """
    global _mode  # noqa: PLW0603 - the one piece of state, on purpose: torch.compile guards on it
    if wanted not in get_args(Mode):
        raise ValueError(f"mode is {wanted!r}; expected auto, torch or triton")
    before = _mode
    _mode = wanted
    try:
        yield
    finally:
        _mode = before


def backend_report(device: torch.device | str | None = None) -> dict[str, Any]:
    """Return what decides on a device, in plain JSON types.

    Keys: ``mode``, ``triton`` (version or None), ``obstacle`` (why Triton cannot run there, or None) and ``summary``,
    one line for people.
    """
    hindrance = obstacle(torch.device(device or ("cuda:0" if torch.cuda.is_available() else "cpu")))
    return {"mode": _mode, "triton": triton_version(), "obstacle": hindrance, "summary": _summary(hindrance)}


def _summary(hindrance: str | None) -> str:
    if _mode == "torch":
        return "PyTorch (forced)"
    if hindrance is not None:
        return f"PyTorch (Triton kernels off: {hindrance})"
    if _mode == "triton":
        return f"Triton kernels (forced, Triton {triton_version()})"
    if interpreting():
        return "PyTorch (Triton's interpreter is for tests, and runs where it is asked for)"
    return f"measured for each model when it is loaded (Triton {triton_version()})"
