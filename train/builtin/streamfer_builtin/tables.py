"""Parquet files of labelled pictures as both recipes read them; what is absent or damaged in them is one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamfer.errors import SourceNotFoundError, SourceUnreadableError, StreamferError

_AT_ONCE = 256


def file_in(data: Path, name: str) -> Path:
    """Return a file of the data sets.

    Raises:
        SourceNotFoundError: it is absent.
    """
    path = data / name
    if not path.is_file():
        raise SourceNotFoundError(
            f"{path}: no such file; give the folder that holds {Path(name).parts[0]}/ with --set data=FOLDER"
        )
    return path


def rows(data: Path, name: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Return the rows of a file, with the named columns alone, in order.

    Raises:
        SourceNotFoundError: it is absent.
        SourceUnreadableError: damaged, without rows, or a column is absent or has an empty cell.
    """
    for batch in _batches(file_in(data, name), list(columns)):
        yield from batch.to_pylist()


def table(data: Path, name: str, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Return the named columns of a whole file as lists; raises what :func:`rows` does."""
    found: dict[str, list[Any]] = {column: [] for column in columns}
    for batch in _batches(file_in(data, name), list(columns)):
        for column, values in batch.to_pydict().items():
            found[column] += values
    return found


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with as_stored(path):
        file = pq.ParquetFile(path)
    if absent := [column for column in columns if column not in file.schema_arrow.names]:
        raise SourceUnreadableError(f"{path}: has no column {absent[0]!r}; fetch the data again")
    if not file.metadata.num_rows:
        raise SourceUnreadableError(f"{path}: has no rows; fetch the data again")
    with as_stored(path):
        for batch in file.iter_batches(_AT_ONCE, columns=columns):
            if empty := [column for column in columns if batch[column].null_count]:
                raise SourceUnreadableError(f"{path}: column {empty[0]!r} has an empty cell; fetch the data again")
            yield batch


@contextlib.contextmanager
def as_stored(what: Path | str) -> Iterator[None]:
    """Turn what a damaged file, or a value of another kind, makes pyarrow and NumPy raise into one line."""
    try:
        yield
    except StreamferError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise SourceUnreadableError(f"{what}: no whole parquet file; fetch the data again") from error
    except (TypeError, ValueError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise SourceUnreadableError(f"{what}: a value of another kind ({reason}); fetch the data again") from error


def decoded(coded: bytes, name: str, colours: int) -> NDArray[np.uint8]:
    """Return a coded picture, grey or BGR as OpenCV's ``colours`` says.

    Raises:
        SourceUnreadableError: the bytes are no picture.
    """
    with as_stored(name):
        # OpenCV takes no bytes at all for a mistake of the program.
        picture = cv2.imdecode(np.frombuffer(coded or b"\0", np.uint8), colours)
    if picture is None:
        raise SourceUnreadableError(f"{name}: the stored bytes are no picture; fetch the data again")
    return np.asarray(picture, np.uint8)
