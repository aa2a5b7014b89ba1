"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
from pathlib import Path
from typing import IO

from streamfer.errors import OutputError


class AtomicFile:
    """A text file written beside its destination and renamed onto it by :meth:`commit`.

    Until then a reader sees the old file, or none; :meth:`discard` leaves no trace.

    Raises:
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = part_of(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path)
            # Names of files that are no UTF-8 stand in the tables as \udc.. escapes instead of breaking them.
            self._file: IO[str] = self._part.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror}); choose another folder with --output"
            ) from error

    @property
    def file(self) -> IO[str]:
        """The open text file."""
        return self._file

    def prepare(self) -> None:
        """Bring everything written to the disk, so that only the renaming is left to :meth:`commit`.

        Raises:
            OutputError: the disk is full, or the folder has gone; nothing is left behind.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            self.discard()
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error

    def commit(self) -> None:
        """Make the file appear under its name, its bytes on disk first.

        Raises:
            OutputError: the disk is full, or the folder has gone.
        """
        if not self._file.closed:
            self.prepare()
        try:
            self._part.replace(self.path)
        except OSError as error:
            self.discard()
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error

    def discard(self) -> None:
        """Remove what was written; the destination stays as it was."""
        # Closing writes what is still in memory, which fails once more on a full disk.
        with contextlib.suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)


def part_of(path: Path, suffix: str = "") -> Path:
    """Return the hidden name, ending in ``suffix``, under which this process writes ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}.part{suffix}")


def sweep(path: Path) -> None:
    """Remove what processes that were killed left behind of ``path``."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part*"):
        owner = leftover.name.removeprefix(f".{path.name}.").partition(".")[0]
        if owner.isdecimal() and not _runs(int(owner)):
            leftover.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
