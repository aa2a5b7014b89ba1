"""Coded pictures with face labels in one file: the shape in which this recipe keeps everything on disk."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.errors import SourceUnreadableError
from streamfer.files import write_whole
from streamfer_builtin.faces.labels import Labels, Picture

_FIELDS = ("data", "picture_ends", "face_ends", "boxes", "landmarks", "ignored", "precise")


@dataclass(frozen=True, slots=True)
class Shard:
    """Pictures (coded bytes, one after the other) and their labels; ``picture_ends`` and ``face_ends`` are offsets."""

    data: NDArray[np.uint8]
    picture_ends: NDArray[np.int64]
    face_ends: NDArray[np.int64]
    labels: Labels

    def __len__(self) -> int:
        return len(self.picture_ends)

    def picture(self, index: int) -> Picture:
        """Picture ``index`` decoded: RGB uint8 H x W x 3, or RGBA H x W x 4 where alpha was stored."""
        begin = self.picture_ends[index - 1] if index else 0
        coded = self.data[begin : self.picture_ends[index]]
        return decoded_picture(coded)

    def faces(self, index: int) -> Labels:
        """Labels of picture ``index``."""
        begin = int(self.face_ends[index - 1]) if index else 0
        piece = slice(begin, int(self.face_ends[index]))
        whole = self.labels
        return Labels(
            whole.boxes[piece], whole.landmarks[piece], whole.ignored[piece], whole.precise[piece]
        )  # fmt: skip

    @staticmethod
    def of(coded: list[bytes], labels: list[Labels]) -> Shard:
        """A shard of already coded pictures and one label set for each."""
        joined = np.frombuffer(b"".join(coded), np.uint8)
        picture_ends = np.cumsum([len(piece) for piece in coded], dtype=np.int64)
        face_ends = np.cumsum([len(each) for each in labels], dtype=np.int64)
        return Shard(joined, picture_ends, face_ends, Labels.joined(labels))

    def save(self, path: Path) -> None:
        """Write the shard so that a reader sees either nothing or all of it.

        Raises:
            OutputError: it cannot be written.
        """

        def write(stream: IO[bytes]) -> None:
            np.savez(
                stream,
                data=self.data,
                picture_ends=self.picture_ends,
                face_ends=self.face_ends,
                boxes=self.labels.boxes,
                landmarks=self.labels.landmarks,
                ignored=self.labels.ignored,
                precise=self.labels.precise,
            )

        write_whole(path, write)

    @staticmethod
    def load(path: Path) -> Shard:
        """Read a shard back.

        Raises:
            SourceUnreadableError: the file is not a shard.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                fields = {name: file[name] for name in _FIELDS}
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise SourceUnreadableError(f"{path}: not a shard of face pictures; compose it again") from error
        labels = Labels(*(fields[name] for name in ("boxes", "landmarks", "ignored", "precise")))
        return Shard(fields["data"], fields["picture_ends"], fields["face_ends"], labels)


def decoded_picture(coded: NDArray[np.uint8]) -> Picture:
    """A coded picture as RGB uint8 H x W x 3, or RGBA H x W x 4 where it has alpha.

    Raises:
        SourceUnreadableError: the bytes are no picture.
    """
    decoded = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise SourceUnreadableError("a coded face picture cannot be decoded; gather and compose again")
    if decoded.ndim == 2:
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_GRAY2RGB), np.uint8)
    order = cv2.COLOR_BGRA2RGBA if decoded.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(decoded, order), np.uint8)


def coded_jpeg(picture: Picture, quality: int = 94) -> bytes:
    """An RGB picture as JPEG bytes."""
    return bytes(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def coded_png(picture: Picture) -> bytes:
    """An RGBA picture as PNG bytes."""
    return bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA))[1])
