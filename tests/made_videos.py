"""Recipes of videos that real life makes and encoders avoid: clocks that leap, sizes that change."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
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


def with_cover(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a second of silence with a cover picture, as podcasts have one."""
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width = picture.shape[:2]
        cover.pix_fmt = "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture)))
        frame = av.AudioFrame(format="fltp", layout="mono", samples=8000)
        frame.sample_rate = 8000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux([*sound.encode(frame), *sound.encode(None)])


def tape(path: Path, frames: int) -> None:
    """Write a PAL DV tape."""
    with av.open(str(path), "w", format="dv") as container:
        stream = container.add_stream("dvvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        for number in range(frames):
            grey = np.full((576, 720, 3), number * 8, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey)))
        container.mux(stream.encode(None))


def changing(path: Path, *parts: Pictures, pause: float = 0.0) -> None:
    """Write parts at 25 a second as one MPEG-TS track whose size changes from part to part while the clock runs on.

    Args:
        path: ``.ts``.
        parts: pictures of one size each.
        pause: seconds more between two parts.
    """
    with av.open(str(path), "w") as container:
        height, width = parts[0][0].shape[:2]
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        begin = 0
        for part in parts:
            encoder = av.CodecContext.create("libx264", "w")
            encoder.height, encoder.width = part[0].shape[:2]
            encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", Fraction(25), Fraction(1, 25)
            encoder.options = {"tune": "zerolatency", "crf": "18", "preset": "ultrafast"}
            for number, picture in enumerate([*part, None]):
                frame = None if picture is None else av.VideoFrame.from_ndarray(picture)
                if frame is not None:
                    frame.pts, frame.time_base = number, Fraction(1, 25)
                for packet in encoder.encode(frame):
                    packet.pts, packet.dts = ((time or 0) + begin for time in (packet.pts, packet.dts))
                    packet.time_base, packet.stream = Fraction(1, 25), stream
                    container.mux(packet)
            begin += len(part) + round(pause * 25)


#: Containers with the encoders of picture and sound (or None) that FFmpeg can write into them here.
CONTAINERS: dict[str, tuple[str, str, str | None]] = {
    "a.mkv": ("matroska", "libx264", "aac"),
    "a.webm": ("webm", "libvpx", "libopus"),
    "a.avi": ("avi", "mpeg4", "libmp3lame"),
    "a.mov": ("mov", "mpeg4", "aac"),
    "a.flv": ("flv", "flv", "aac"),
    "a.mxf": ("mxf", "mpeg2video", None),
    "a.ivf": ("ivf", "libvpx", None),
    "a.gif": ("gif", "gif", None),
    "a.nut": ("nut", "mpeg4", "aac"),
    "a.rm": ("rm", "rv10", None),
    "a.y4m": ("yuv4mpegpipe", "rawvideo", None),
    "a.mjpeg": ("mjpeg", "mjpeg", None),
    "a.mod": ("mpeg", "mpeg2video", "mp2"),
    "a.m2t": ("mpegts", "mpeg2video", "mp2"),
    "a.264": ("h264", "libx264", None),
}
_PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p"}


def in_container(path: Path, pictures: Pictures, options: dict[str, str] | None = None) -> None:
    """Write pictures at 25 a second and a tone into a container by its suffix, one of :data:`CONTAINERS`."""
    kind, encoder, sound = CONTAINERS[f"a{path.suffix}"]
    with av.open(str(path), "w", format=kind, container_options=options or {}) as container:
        video: Any = container.add_stream(encoder, rate=25)
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = _PIXELS.get(encoder, "yuv420p")
        audio: Any = container.add_stream(sound, rate=48_000, layout="mono") if sound else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture).reformat(format=video.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
            if audio is not None:
                tone = (np.sin(np.arange(1920) / 10) * 8000).astype(np.int16)[None]
                heard = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
                heard.sample_rate, heard.pts, heard.time_base = 48_000, number * 1920, Fraction(1, 48_000)
                container.mux(audio.encode(heard))
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))
