"""Recipes of videos that real life makes and encoders avoid: clocks that leap, sizes that change."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Pictures = Sequence[NDArray[np.uint8]]


def leaping(path: Path, pictures: Pictures, times: Sequence[float]) -> None:
    """Write pictures at 25 a second, then give their packets ``times``, seconds, whatever they are."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        packets = [packet for picture in pictures for packet in stream.encode(av.VideoFrame.from_ndarray(picture))]
        for packet, seconds in zip([*packets, *stream.encode(None)], times, strict=True):
            packet.time_base = Fraction(1, 1000)
            packet.pts = packet.dts = round(seconds * 1000)
            container.mux(packet)
