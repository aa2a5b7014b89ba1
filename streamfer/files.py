"""Files that appear whole or not at all: written beside their place, brought to the disk, renamed onto it; tables."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import marshal
import os
import tempfile
import tomllib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from streamfer.errors import CheckpointError, OutputError, StreamferError

_Value = TypeVar("_Value")
#: Tells apart what one process writes at the same time, to the same place even.
_NUMBERS = itertools.count(1)


def table_beside(module: str) -> dict[str, Any]:
    """Return the TOML table that stands beside a module, under its name: ``table_beside(__file__)``."""
    return tomllib.loads(Path(module).with_suffix(".toml").read_text(encoding="utf-8"))


class Spill(Sequence[_Value]):
    """A list on the disk: what there is one of each frame would fill the memory over hours.

    It vanishes with its last reader; a full disk raises ``OSError``.

    Args:
        read: makes a value of the plain data (texts, numbers, bytes, tuples, lists, dictionaries) that was put there.
        plain: makes plain data of what is put there, where it is none.
        folder: where it lies, in a file without a name; among the temporary files if None.
    """

    def __init__(
        self, read: Callable[[Any], _Value], plain: Callable[[Any], Any] | None = None, folder: Path | None = None
    ) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open as long as the list is there)
        self._ends = array("Q", [0])
        self._make, self._plain = read, plain

    def append(self, value: Any) -> None:
        """Put a value, or its plain data, behind all others."""
        self._file.seek(0, os.SEEK_END)
        size = self._file.write(marshal.dumps(self._plain(value) if self._plain else value))
        self._ends.append(self._ends[-1] + size)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> _Value:  # type: ignore[override]
        place = range(len(self))[number]
        begin = self._file.seek(self._ends[place])
        # Our own file, which has no name; from a file marshal reads number by number.
        return self._make(marshal.loads(self._file.read(self._ends[place + 1] - begin)))  # noqa: S302


class WholeFile:
    """A file written under a hidden name, :attr:`part`, that takes its own name by :meth:`commit`.

    Until then a reader sees the old file, or none; :meth:`discard` leaves no trace.

    Args:
        path: its name; missing folders are made.
        suffix: end of the hidden name, for writers that choose the format by it.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, path: Path, suffix: str = "") -> None:
        self.path = path
        self._prepared = False
        self.part = path.with_name(f".{path.name}.{os.getpid()}.{next(_NUMBERS)}.part{suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
        except (OSError, ValueError) as error:
            # A name that no file can have is a ValueError.
            raise _unwritable(path, error) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what fails while it is written into an OutputError that leaves nothing behind."""
        try:
            yield
        except OSError as error:
            if isinstance(error, StreamferError):
                raise
            self.discard()
            raise _unwritable(self.path, error) from error

    def prepare(self) -> None:
        """Bring everything written to the disk, so that only the renaming is left to :meth:`commit`.

        Raises:
            OutputError: the disk is full, or the folder has gone; nothing is left behind.
        """
        with self.writing(), self.part.open("rb+") as stream:
            os.fsync(stream.fileno())
        self._prepared = True

    def commit(self) -> None:
        """Make the file appear under its name, its bytes on the disk first.

        Raises:
            OutputError: the disk is full, or the folder has gone.
        """
        if not self._prepared:
            self.prepare()
        with self.writing():
            self.part.replace(self.path)
        _sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written; the file of that name stays as it was."""
        self.part.unlink(missing_ok=True)


def open_text(path: Path) -> IO[str]:
    """Open a text file for writing, UTF-8; what is none, as names of files may be, stands in it as an escape."""
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield the hidden name under which to write; the file takes the name ``path`` at the end, or vanishes.

    Raises:
        OutputError: it cannot be written; what was there before is untouched.
    """
    target = WholeFile(path, suffix)
    try:
        with target.writing():
            yield target.part
        target.commit()
    finally:
        target.discard()


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have ``write`` fill a file that appears under its name when it is complete and on the disk.

    Raises:
        OutputError: it cannot be written, a full disk included; what was there before is untouched.
    """
    with replacing(path) as part, part.open("wb") as stream:
        write(stream)


def write_text(path: Path, text: str) -> None:
    """Write a small text file, UTF-8, as :func:`write_whole` does."""
    write_whole(path, lambda stream: stream.write(text.encode()))


def sha256_of(path: Path) -> str:
    """Return the digest of a file's bytes, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def as_listed(path: Path) -> tuple[Path, str]:
    """Return a file and its SHA-256; a CheckpointError where ``SHA256SUMS`` beside it has another for it."""
    sums, digest = path.with_name("SHA256SUMS"), sha256_of(path) if path.is_file() else ""
    listed = sums.read_text(encoding="utf-8") if digest and sums.is_file() else ""
    if f"  {path.name}\n" in listed and f"{digest}  {path.name}\n" not in listed:
        raise CheckpointError(f"{path}: its digest is not the one in {sums.name}: damaged or changed; install it again")
    return path, digest


def _sweep(path: Path) -> None:
    """Remove what processes that were killed left behind of ``path``."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part*"):
        owner = leftover.name.removeprefix(f".{path.name}.").partition(".")[0]
        if owner.isdecimal() and not _runs(int(owner)):
            leftover.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name == "nt":
        # There, os.kill ends the process that it asks about: what was left stays.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    # Not every file system lets a folder be synchronised; the renaming is whole all the same.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unwritable(path: Path, error: OSError | ValueError) -> OutputError:
    why = getattr(error, "strerror", None) or error
    kept = "; the file that was there before is untouched" if os.path.isfile(path) else "; choose another folder"
    return OutputError(f"{path}: cannot be written ({why}){kept}")
