"""Frames of the development videos, and what is known by eye about which of them show a face."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamfer.errors import SourceNotFoundError, SourceUnreadableError
from streamfer_builtin.faces.labels import Picture

RAW_SIZE = (320, 192)
"""Width and height of the raw I420 file, which carries no header."""


@dataclass(frozen=True, slots=True)
class KnownVideo:
    """A video, how many people it shows, and the first and last frame of each interval with a face (None: always)."""

    path: Path
    people: int
    faces: tuple[tuple[int, int], ...] | None

    def shows_face(self, index: int) -> bool:
        """Whether frame ``index`` shows a face, judged by eye."""
        return self.faces is None or any(first <= index <= last for first, last in self.faces)


def known_videos(folder: Path) -> list[KnownVideo]:
    """The videos that ``ground_truth.json`` in ``folder`` describes.

    Raises:
        SourceNotFoundError: there is no such description.
        SourceUnreadableError: it is damaged.
    """
    description = folder / "ground_truth.json"
    if not description.is_file():
        raise SourceNotFoundError(
            f"{description}: no such file; give the folder that holds videos/ with --set data=FOLDER"
        )
    try:
        videos = json.loads(description.read_text(encoding="utf-8"))["videos"]
        return [_known(folder / name, facts) for name, facts in videos.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceUnreadableError(f"{description}: does not say who is in which video; fetch it again") from error


def _known(path: Path, facts: dict[str, Any]) -> KnownVideo:
    intervals = facts.get("face_intervals")
    seen: tuple[tuple[int, int], ...] | None = None
    if intervals is not None:
        seen = tuple((each["first_frame"], each["last_frame"]) for each in intervals if each["faces"])
    elif not any(facts["faces_per_second"]):
        seen = ()
    return KnownVideo(path, int(facts["distinct_people"]), seen)


def frames(path: Path) -> Iterator[Picture]:
    """Every frame of a video, animated picture or still as RGB uint8, in order.

    Raises:
        SourceNotFoundError: there is no such file.
        SourceUnreadableError: the file cannot be decoded.
    """
    import av  # whoever trains needs no decoder

    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file; fetch the data again")
    if path.suffix == ".yuv":
        yield from _raw_frames(path)
        return
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except av.FFmpegError as error:
        raise SourceUnreadableError(f"{path}: cannot be decoded ({error.strerror}); fetch it again") from error


def _raw_frames(path: Path) -> Iterator[Picture]:
    width, height = RAW_SIZE
    size = width * height * 3 // 2
    raw = np.fromfile(path, np.uint8)
    for index in range(len(raw) // size):
        planes = raw[index * size : (index + 1) * size].reshape(height * 3 // 2, width)
        yield np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420), np.uint8)
