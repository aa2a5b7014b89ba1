"""A file's own time, as players and transcripts count: whatever lies before its first picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from streamfer.video import find_sources, open_source
from streamfer.video.frames import Frame

TIMES = (0.0, 0.04, 0.2, 0.24)


def film(path: Path, first: float, format_options: dict[str, str] | None = None) -> Path:
    """Write sound from zero, and pictures from ``first`` seconds at a variable rate."""
    with av.open(str(path), "w", options=format_options or {}) as container:
        video = container.add_stream("mpeg4" if path.suffix != ".ts" else "mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("mp2" if path.suffix in (".ts", ".avi", ".mkv") else "aac", rate=44100)
        silence = av.AudioFrame(format=sound.codec_context.format.name, layout="stereo", samples=44100)
        silence.sample_rate, silence.pts, silence.time_base = 44100, 0, Fraction(1, 44100)
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        resampler = av.AudioResampler(format=sound.codec_context.format.name, layout="stereo", rate=44100)
        packets = [packet for part in resampler.resample(silence) for packet in sound.encode(part)]
        packets += sound.encode(None)
        pictures = [packet for _ in TIMES for packet in video.encode(av.VideoFrame(64, 48, "yuv420p"))]
        pictures += video.encode(None)
        for packet, seconds in zip(pictures, TIMES, strict=True):
            packet.time_base = Fraction(1, 1000)
            packet.pts = packet.dts = round((first + seconds) * 1000)
        container.mux(sorted([*packets, *pictures], key=lambda packet: float((packet.dts or 0) * packet.time_base)))
    return path


def read(path: Path) -> list[Frame]:
    source = open_source(find_sources([str(path)])[0])
    return [item for item in source.stream() if isinstance(item, Frame)]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts"])
@pytest.mark.parametrize("first", [0.0, 0.5, 2.0])
def test_seconds_begin_with_the_first_picture_and_media_seconds_with_the_file(
    tmp_path: Path, suffix: str, first: float
) -> None:
    frames = read(film(tmp_path / f"late.{suffix}", first))
    assert [frame.seconds for frame in frames] == pytest.approx(TIMES, abs=0.002)
    # A transport stream begins where its first packet lies, here with the sound.
    media = [frame.media_seconds for frame in frames]
    assert media == pytest.approx([first + seconds for seconds in TIMES], abs=0.03 if suffix == "ts" else 0.002)


def test_a_file_whose_clock_begins_elsewhere_counts_from_its_begin(tmp_path: Path) -> None:
    frames = read(film(tmp_path / "late.ts", 0.5, {"output_ts_offset": "3600"}))
    assert frames[0].media_seconds == pytest.approx(0.5, abs=0.03)


def test_a_picture_lies_at_zero(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "still.png"), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
    (frame,) = read(tmp_path / "still.png")
    assert frame.media_seconds == 0.0
