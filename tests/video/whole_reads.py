"""Test pictures with a colour in each corner, and files read from their first frame to their last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamfer.video import (
    FileSource,
    Frame,
    StateChange,
    VideoInfo,
    find_sources,
    open_source,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Quarters red, green / blue, white: any turn or mirror shows."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, WHITE
    return image


def quarters(image: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """Colours of the four quarters' centres, rounded to 0 or 255: top left, top right, bottom left, bottom right."""
    height, width = image.shape[:2]
    places = [(y, x) for y in (height // 4, -height // 4) for x in (width // 4, -width // 4)]
    return [tuple(int(value > 127) * 255 for value in image[place]) for place in places]


def source(path: Path | str) -> FileSource:
    opened = open_source(find_sources([str(path)])[0])
    assert isinstance(opened, FileSource)
    return opened


def read(path: Path | str) -> tuple[VideoInfo, list[Frame], StateChange]:
    first, *frames, last = source(path).stream()
    assert isinstance(first, StateChange)
    assert isinstance(last, StateChange)
    assert (first.state, last.state) == ("online", "ended")
    assert first.info is not None
    return first.info, [frame for frame in frames if isinstance(frame, Frame)], last
