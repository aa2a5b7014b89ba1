"""The folder of a run: whose configuration it holds, what may not change, and where its numbers come from."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from streamfer.errors import CheckpointError, ConfigError, OutputError
from streamfer.files import write_text
from streamfer_train.recipes.processes import ProcessGroup

log = logging.getLogger(__name__)

#: The configuration of a run, in its folder.
CONFIG = "config.yaml"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second process from writing to a folder meanwhile; the system lets go however this one ends.

    Raises:
        ConfigError: another process is at it.
        OutputError: the folder cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    try:
        if descriptor is not None:
            import fcntl

            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{folder}: another process is writing there; wait for its end, or choose another --out"
                ) from None
            except OSError as error:  # network disks may have no locks
                log.info("run.no_lock", extra={"folder": str(folder), "error": str(error)})
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what fails while something is written into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({why}); make room, or choose another folder") from error


def claim(out: Path, config: dict[str, Any], free: Sequence[str], started: Sequence[Path]) -> None:
    """Make sure that the folder of a run is this configuration's, and write it there.

    Args:
        free: settings that may differ from those of an earlier run.
        started: files that show that a run has begun, where it may not have; empty where it may.

    Raises:
        CheckpointError: it holds runs of another configuration; the first setting that differs is named.
        ConfigError: a run has begun.
    """
    stored = out / CONFIG
    # Before anything was trained the settings may still be mended.
    if stored.exists() and any(next(out.rglob(name), None) for name in ("last.pt", "steps.csv")):
        try:
            before = yaml.safe_load(stored.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f"{stored}: cannot be read; choose another --out") from error
        check_same(stored, before if isinstance(before, dict) else {}, config, free)
    for path in started:
        if path.exists():
            raise ConfigError(f"{path.parent} holds a run already; add --resume, or choose another --out")
    write_text(stored, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``("a.b", value)`` for each setting of a nested mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_same(where: Path, stored: Mapping[str, Any], asked: Mapping[str, Any], free: Sequence[str]) -> None:
    """Refuse to continue a run under other settings: a CheckpointError names the first that differs and may not."""
    before, now = dict(flatten(stored)), dict(flatten(asked))
    for name in [*now, *(name for name in before if name not in now)]:
        if name in free or name.startswith(tuple(f"{one}." for one in free)):
            continue
        if before.get(name) != now.get(name):
            difference = f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
            raise CheckpointError(
                f"{where}: of another configuration: {difference}; restore it, or choose another --out"
            )


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
    version, here = importlib.metadata.version("streamfer"), Path(__file__).resolve()
    git = partial(subprocess.run, cwd=here.parent, capture_output=True, text=True, timeout=20, check=True)
    try:
        # An environment inside another project's checkout would be described by that project's commits.
        git(["git", "ls-files", "--error-unmatch", here.name])
        return f"{version}+{git(['git', 'describe', '--always', '--dirty', '--tags']).stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        return version
