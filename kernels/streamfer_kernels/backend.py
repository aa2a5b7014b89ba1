"""Which implementation runs: Triton's kernels or PyTorch's own, by rule, by measurement or by force.

Three modes: ``auto`` (the default) runs Triton where ``measured.json`` holds a measurement, taken on this kind of
GPU, in which it was at least as fast as the best of PyTorch, and PyTorch everywhere else; ``torch`` and ``triton``
force one. The mode comes from the variable STREAMFER_KERNELS, read at import, and from :func:`use`; it belongs to
the process, not to a thread. Triton cannot run on CPU tensors (outside its interpreter, TRITON_INTERPRET=1), so
even ``triton`` gives PyTorch there, and :func:`choice` says why.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

import torch

Mode = Literal["auto", "torch", "triton"]
Backend = Literal["torch", "triton"]

VARIABLE = "STREAMFER_KERNELS"
#: Everything that chooses between two implementations.
OPERATIONS = (
    "attention",
    "crop_faces",
    "residual_layer_norm",
    "quick_gelu",
    "gelu_tanh",
    "temporal_block",
    "label_head",
)
#: Compute capability from which the kernels are meant to run: bf16 and asynchronous copies.
OLDEST_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """An implementation and the reason for it, as ``streamfer doctor`` prints it."""

    backend: Backend
    reason: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of ``measured.json``: where Triton was timed against the best of PyTorch.

    Attributes:
        operation: one of OPERATIONS.
        device: name of the GPU as torch.cuda.get_device_name gives it.
        dtype: for example ``bfloat16``.
        training: whether the backward pass was timed, too.
        sizes: inclusive range of each named size that the line speaks for; None leaves an end open.
        ratio: PyTorch's best time over Triton's; above 1 where Triton was faster.
    """

    operation: str
    device: str
    dtype: str
    training: bool
    ratio: float
    sizes: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)

    def speaks_for(self, sizes: Mapping[str, int]) -> bool:
        """Whether all sizes lie in this line's ranges; a size that the line does not name is free."""
        return all(
            (low is None or sizes.get(name, low) >= low) and (high is None or sizes.get(name, high) <= high)
            for name, (low, high) in self.sizes.items()
        )


def read_measurements(text: str) -> tuple[Measurement, ...]:
    """Read the table from JSON: a list of objects with the fields of :class:`Measurement`.

    Raises:
        ValueError: a field is missing or unknown.
    """
    lines: list[Measurement] = []
    for position, entry in enumerate(json.loads(text)):
        try:
            sizes = {name: (low, high) for name, (low, high) in entry.pop("sizes", {}).items()}
            lines.append(Measurement(**entry, sizes=sizes))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"measurement {position}: {error}; expected the fields of Measurement") from error
        if lines[-1].operation not in OPERATIONS:
            raise ValueError(
                f"measurement {position}: operation is {lines[-1].operation!r}; expected one of {OPERATIONS}"
            )
    return tuple(lines)


def _mode_from_environment() -> Mode:
    found = os.environ.get(VARIABLE, "auto")
    for mode in get_args(Mode):
        if found == mode:
            return mode  # type: ignore[no-any-return]
    raise ValueError(f"{VARIABLE} is {found!r}; expected auto, torch or triton")


MEASURED = read_measurements(resources.files(__package__).joinpath("measured.json").read_text("utf-8"))
_mode: Mode = _mode_from_environment()


@cache
def triton_version() -> str | None:
    """Version of Triton, or None where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    return str(triton.__version__)


@cache
def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors (TRITON_INTERPRET=1 at import)."""
    if triton_version() is None:
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _obstacle(device: torch.device) -> str | None:
    """Return why Triton cannot run on a device, or None."""
    return _cached_obstacle(device)


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


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def choice(
    operation: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    training: bool = False,
    wanted: Backend | None = None,
    **sizes: int,
) -> Choice:
    """Return what a call of these sizes would run, and why.

    Args:
        operation: one of OPERATIONS.
        device: where the tensors are.
        dtype: of the tensors, after autocast.
        training: whether a backward pass follows.
        wanted: force one for this call, whatever the mode.
        sizes: of attention: ``pairs`` (batch x heads), ``queries``, ``keys``, ``head``, ``causal`` (0 or 1); of
            the others: those the benchmark prints.

    Raises:
        ValueError: no such operation or backend.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"operation is {operation!r}; expected one of {', '.join(OPERATIONS)}")
    if wanted not in (None, "torch", "triton"):
        raise ValueError(f"backend is {wanted!r}; expected torch, triton or None")
    forced = wanted or _mode
    if forced == "torch":
        return Choice("torch", "forced")
    obstacle = _obstacle(device)
    if obstacle is not None:
        return Choice("torch", obstacle)
    if forced == "triton":
        return Choice("triton", "forced")
    if not MEASURED:
        return Choice("torch", "no measurement of any shape yet")
    name, kind = _device_name(device), _dtype_name(dtype)
    for line in MEASURED:
        if (line.operation, line.device, line.dtype, line.training) == (operation, name, kind, training) and (
            line.speaks_for(sizes)
        ):
            return Choice("triton" if line.ratio >= 1 else "torch", f"measured: {line.ratio:.2f} x the best of PyTorch")
    return Choice("torch", "no measurement of this shape")


def mode() -> Mode:
    """Return the mode in force: ``auto``, ``torch`` or ``triton``."""
    return _mode


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

    Keys: ``mode``, ``triton`` (version or None), ``interpreted``, ``device``, ``obstacle`` (why Triton cannot run
    there, or None), ``measurements`` (how many lines speak of this device) and ``summary``, one line for people.
    """
    chosen = torch.device(device) if device is not None else _first_device()
    obstacle = _obstacle(chosen)
    name = _device_name(chosen)
    lines = [line for line in MEASURED if line.device == name]
    return {
        "mode": _mode,
        "triton": triton_version(),
        "interpreted": interpreting(),
        "device": str(chosen),
        "obstacle": obstacle,
        "measurements": len(lines),
        "summary": _summary(obstacle, [line for line in lines if line.ratio >= 1]),
    }


def _first_device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _summary(obstacle: str | None, faster: list[Measurement]) -> str:
    if _mode == "torch":
        return "PyTorch (forced)"
    if obstacle is not None:
        return f"PyTorch (Triton kernels off: {obstacle})"
    if _mode == "triton":
        return f"Triton kernels (forced, Triton {triton_version()})"
    if not faster:
        return "PyTorch (no measurement of the Triton kernels on this device)"
    names = ", ".join(sorted({line.operation for line in faster}))
    return f"Triton kernels for the {len(faster)} measured cases in which they are faster ({names}), else PyTorch"
