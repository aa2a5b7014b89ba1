"""Files of a run: written so that a crash or a full disk costs nothing, read so that nothing in them can run."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from streamfer.errors import CheckpointError, ConfigError, OutputError
from streamfer_train.recipes.settings import check_same

#: The configuration of a run, in its folder.
CONFIG = "config.yaml"


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file that is whole and on disk under its name, or not there at all: write, fsync, rename.

    An existing file of that name survives until the new one is complete.

    Raises:
        OutputError: it cannot be written, a full disk included; what was there before is untouched.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    # torch reports a failed write of its archive as RuntimeError.
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        kept = "; the file that was there before is untouched" if path.exists() else ""
        raise OutputError(f"{path}: cannot be written ({reason}); is the disk full?{kept}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Not every file system lets a folder be synchronised; the rename itself is atomic all the same.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small text file as :func:`write_whole` does."""
    write_whole(path, lambda stream: stream.write(text.encode()))


def claim(out: Path, config: dict[str, Any], free: Sequence[str], started: Sequence[Path]) -> None:
    """Make sure that the folder of a run is this configuration's, and write it there.

    Args:
        out: the folder.
        config: plain settings.
        free: settings that may differ from those of an earlier run.
        started: files that show that a run has begun, where it may not have; empty where it may.

    Raises:
        CheckpointError: it holds runs of another configuration; the first setting that differs is named.
        ConfigError: a run has begun.
        OutputError: the configuration cannot be written.
    """
    stored = out / CONFIG
    if stored.exists():
        try:
            before = yaml.safe_load(stored.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f"{stored}: cannot be read; choose another --out") from error
        check_same(stored, before if isinstance(before, dict) else {}, config, free)
    for path in started:
        if path.exists():
            raise ConfigError(f"{path.parent} holds a run already; add --resume, or choose another --out")
    write_text(stored, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
