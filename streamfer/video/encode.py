"""Writing video files: overlays, the demo's clip, and files for tests."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from streamfer.errors import OutputError
from streamfer.files import replacing
from streamfer.video.sound import Sound

# MPEG-4 Part 2 is FFmpeg's own encoder. The H.264 encoder in PyAV's wheel is x264, which is under the GPL: it is
# used only where a caller asks for it by name.
DEFAULT_CODEC = "mpeg4"
_QUALITY = {"mpeg4": {"qmin": "2", "qmax": "5"}, "libx264": {"crf": "20", "preset": "veryfast"}}
#: What plays everywhere, browsers, PowerPoint and ELAN included; encoders by preference.
_PLAYABLE = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf")
#: Irregular video counts in this, which holds the frames of every usual rate exactly; MPEG-4 Part 2 counts in no less
#: than 1/65535 s.
_TICK, _COARSE_TICK = Fraction(1, 90_000), Fraction(1, 1000)
#: MP4 with its index in front, so that a browser begins before the whole file has come.
_OPTIONS = {"mp4": {"movflags": "+faststart"}, "mov": {"movflags": "+faststart"}}


def write_video(
    path: str | Path,
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    *,
    codec: str = DEFAULT_CODEC,
    rotation: int = 0,
    times: Iterable[float] | None = None,
    sound: Sound | None = None,
) -> int:
    """Encode uint8 RGB frames (H, W, 3), H and W even, into the container that the suffix of ``path`` names.

    The file appears under its name only when it is complete. Returns the number of frames written.

    Args:
        path: ``.mp4``, ``.mkv``, ``.mov``, ``.avi`` ...
        frames: pictures of one size; consumed one by one.
        fps: declared rate, frames a second.
        rotation: degrees clockwise, in quarter turns, that a player shall turn the pictures by (mp4, mov).
        times: seconds of each frame, rising, for a variable rate; by default ``index / fps``.
        sound: what is heard with it, on the same clock.

    Raises:
        OutputError: the file cannot be written, there is no frame, or the encoder does not know the size.
    """
    path = Path(path)
    with replacing(path, path.suffix) as part:
        try:
            options = _OPTIONS.get(path.suffix[1:].lower(), {})
            with av.open(str(part), "w", container_options=options) as container:
                count = _encode(container, frames, fps, codec=codec, rotation=rotation, times=times, sound=sound)
        except OutputError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise OutputError(
                f"{path}: cannot be written ({said}); check the disk, the suffix and codec {codec}"
            ) from error
        if count == 0:
            raise OutputError(f"{path}: no frame to write")
    return count


def _encode(
    container: OutputContainer,
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    *,
    codec: str,
    rotation: int,
    times: Iterable[float] | None,
    sound: Sound | None,
) -> int:
    rate = Fraction(fps).limit_denominator(1001)
    time_base = 1 / rate if times is None else _COARSE_TICK if codec == DEFAULT_CODEC else _TICK
    moments = iter(times) if times is not None else None
    stream: VideoStream | None = None
    count, last = 0, -1
    for count, image in enumerate(frames, start=1):
        if stream is None:
            stream = _add_stream(container, codec, rate, time_base, image.shape)
            if rotation:
                # FFmpeg counts angles against the clock.
                stream.set_display_rotation(-rotation)
            if sound is not None:
                sound.begin(container)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        picture.time_base = time_base
        last = count - 1 if moments is None else max(last + 1, round(next(moments) / time_base))
        picture.pts = last
        container.mux(stream.encode(picture))
        if sound is not None:
            sound.write(container, float(last * time_base))
    if stream is not None:
        container.mux(stream.encode(None))
        if sound is not None:
            sound.write(container, float("inf"))
    return count


def playable_codec() -> str:
    """Return the H.264 encoder of this FFmpeg, or its own MPEG-4 encoder where it has none."""
    return next((name for name in _PLAYABLE if name in av.codecs_available), DEFAULT_CODEC)


def _add_stream(
    container: OutputContainer, codec: str, rate: Fraction, time_base: Fraction, shape: tuple[int, ...]
) -> VideoStream:
    height, width = shape[:2]
    stream = container.add_stream(codec, rate=rate, options=_QUALITY.get(codec, {}))
    if not isinstance(stream, VideoStream):
        raise OutputError(f"{codec} is not a video encoder")
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = time_base
    stream.codec_context.thread_count = 1
    return stream
