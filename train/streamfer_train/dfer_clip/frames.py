"""The pixels of a clip: which frames are sampled, and only those decoded, from frame folders and from video."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.errors import SourceUnreadableError
from streamfer.video.locate import SourceSpec
from streamfer.video.readers import PyAvReader
from streamfer.video.sampling import segment_centres, segment_random
from streamfer_train.dfer_clip.entries import Clip

#: What counts as a frame of a folder; anything else there is stray (Thumbs.db, .DS_Store, notes).
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# As PIL's convert("RGB"): three channels whatever the file has, and no turning by EXIF.
_AS_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

Picture = NDArray[np.uint8]


def is_picture(name: str) -> bool:
    """Whether a file of this name counts as a frame; hidden files do not.

    >>> is_picture("00001.jpg"), is_picture("Thumbs.db"), is_picture("._00001.jpg")
    (True, False, False)
    """
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def list_pictures(folder: str | Path) -> list[str]:
    """Return the names of a folder's frames as the authors order them, by character, or a SourceUnreadableError."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if is_picture(entry.name))
    except OSError as error:
        raise SourceUnreadableError(f"{folder}: cannot be listed ({error.strerror})") from error


def sample(frames: int, segments: int, rng: random.Random | None) -> list[int]:
    """Return the indices that are looked at: DFER-CLIP's training sampling with ``rng``, its test sampling without."""
    return segment_centres(frames, segments) if rng is None else segment_random(frames, rng, segments)


def read_clip(clip: Clip, segments: int, rng: random.Random | None) -> list[Picture]:
    """Sample a clip and decode T pictures, uint8 RGB (H, W, 3); a frame that is sampled twice is one array twice.

    Raises:
        SourceUnreadableError: a sampled frame is not there or does not decode.
    """
    if clip.kind == "video":
        with opened(clip) as reader:
            first, count = part_of(clip, reader)
            return list(reader.read([first + index for index in sample(count, segments, rng)]))
    names = list_pictures(clip.path)
    frames = len(names) if clip.frames is None else clip.frames
    indices = sample(frames, segments, rng)
    if max(indices) >= len(names):
        raise SourceUnreadableError(f"{clip.path}: frame {max(indices)} is wanted of {len(names)} that are there")
    decoded = {index: read_picture(os.path.join(clip.path, names[index])) for index in dict.fromkeys(indices)}
    return [decoded[index] for index in indices]


def read_picture(path: str) -> Picture:
    """Return a picture file as uint8 RGB (H, W, 3), the pixels that PIL's ``convert("RGB")`` gives.

    Raises:
        SourceUnreadableError: the file cannot be read or is no picture.
    """
    try:
        # Not cv2.imread: it prints to stderr, and it cannot open every name that Python can.
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceUnreadableError(f"{path}: cannot be read ({error.strerror})") from error
    picture = cv2.imdecode(data, _AS_RGB) if data.size else None
    if picture is None:
        raise SourceUnreadableError(f"{path}: is no picture, or a damaged one ({data.size} bytes); mend or remove it")
    return np.asarray(picture, np.uint8)


def opened(clip: Clip) -> PyAvReader:
    """Open the film that a clip is a part of; a SourceError where it cannot be opened."""
    return PyAvReader(SourceSpec(url=clip.path, source_id=Path(clip.path).name, kind="file"))


def part_of(clip: Clip, reader: PyAvReader) -> tuple[int, int]:
    """Return the first frame and the number of frames of a clip within its video.

    A part from ``start`` to ``end`` seconds holds the frames whose times, at the video's rate, lie in [start, end).

    Raises:
        SourceUnreadableError: the video has no frame there.
    """
    length = len(reader)
    first = 0 if clip.start is None else math.ceil(clip.start * reader.fps - 1e-6)
    last = length if clip.end is None else min(length, math.ceil(clip.end * reader.fps - 1e-6))
    if first >= last:
        raise SourceUnreadableError(
            f"{clip.path}: has no frame between {clip.start or 0.0} and {clip.end or 'its end'} s "
            f"({length} frames at {reader.fps:.4g} a second; {clip.where})"
        )
    return first, last - first
