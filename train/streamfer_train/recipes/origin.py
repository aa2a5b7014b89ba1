"""Where the numbers of a run come from: code, command, machine."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from streamfer_train.recipes.processes import ProcessGroup


def origin(world: ProcessGroup, *libraries: str) -> dict[str, Any]:
    """Return code version, command, processes, device and the versions of torch and libraries as plain JSON values."""
    return {
        "code": code_version(),
        "command": Path(sys.argv[0]).name + " " + " ".join(sys.argv[1:]),
        "processes": world.size,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: importlib.metadata.version(name) for name in libraries},
    }


def code_version() -> str:
    """Return ``git describe`` of a checkout, or the installed version."""
    version = importlib.metadata.version("streamfer")
    try:
        # An environment inside another project's checkout would be described by that project's commits.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return f"{version}+{_git('describe', '--always', '--dirty', '--tags')}"
    except (OSError, subprocess.SubprocessError):
        return version


def _git(*words: str) -> str:
    here = Path(__file__).resolve().parent
    return subprocess.run(
        ["git", *words], cwd=here, capture_output=True, text=True, timeout=20, check=True
    ).stdout.strip()
