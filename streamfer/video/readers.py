"""Random access to the frames of a file: clips for annotation and training, behind one small interface."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from streamfer.closing import Closing
from streamfer.errors import ConfigError, SourceUnreadableError
from streamfer.extras import needs
from streamfer.video.container import classified, open_container, video_stream
from streamfer.video.locate import SourceSpec, find_sources
from streamfer.video.pixels import UPRIGHT, RgbConverter, orientation

ReaderName = Literal["auto", "pyav", "decord"]

_ASSUMED_FPS = 25.0
# Their demuxers seek to key frames exactly; elsewhere a seek may land anywhere: frames are counted from the start.
_SEEKABLE_FORMATS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})


def open_reader(path: str | Path | SourceSpec, prefer: ReaderName = "auto") -> PyAvReader:
    """Open ``path`` for random access.

    ``auto`` is PyAV: docs/results/readers.md shows why (decord is no faster where it is right, and wrong or
    helpless for raw streams, stills, GIF, rotation metadata and edit lists).

    Raises:
        SourceError: there is no such file, or it is not a video.
        ConfigError: no reader of that name.
    """
    spec = path if isinstance(path, SourceSpec) else find_sources([str(path)])[0]
    if prefer not in get_args(ReaderName):
        raise ConfigError(f"reader {prefer!r} is unknown; choose auto, pyav or decord")
    return (DecordReader if prefer == "decord" else PyAvReader)(spec)


class PyAvReader(Closing):
    """Frames of one file by their number in presentation order.

    Seeks to key frames in mp4, mov and mkv, decodes from the start elsewhere.

    Opening walks the packets of a seekable file once without decoding them, which makes ``len`` exact where
    containers lie about it (edit lists, variable rate). Other formats are decoded once for ``len``.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._converter = RgbConverter()
        self._container, self._track = self._open()
        rate = self._track.average_rate or self._track.guessed_rate
        #: Declared rate, frames a second; 25 where the file states none.
        self.fps = float(rate) if rate else _ASSUMED_FPS
        self._length: int | None = None
        self._running: Iterator[av.VideoFrame] = iter(())
        self._here: int | None = None
        self._times: list[int] = []
        self._keys: list[int] = []
        if self._container.format.name in _SEEKABLE_FORMATS:
            with classified(spec):
                self._index_packets()

    def _open(self) -> tuple[InputContainer, VideoStream]:
        container = open_container(self._spec, timeout=20.0)
        try:
            return container, video_stream(container, self._spec, decode_threads=1)
        except SourceUnreadableError:
            container.close()
            raise

    def __len__(self) -> int:
        if self._length is None:
            with classified(self._spec):
                if not self._times:
                    # Whoever reads next starts again: the position stays unknown.
                    self._restart(0)
                self._length = len(self._times) or sum(1 for _ in self._running)
        return self._length

    def close(self) -> None:
        self._running = iter(())
        self._container.close()

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return uint8 RGB (K, H, W, 3), upright, in the order of ``indices``; repeats are allowed.

        Raises:
            IndexError: an index is negative or not below ``len``.
            SourceUnreadableError: a frame does not decode, or they are of several sizes.
        """
        _check(indices, len(self))
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(index, []).append(place)
        images = np.empty((0, 0, 0, 3), np.uint8)
        with classified(self._spec):
            for index, picture in self._pictures(sorted(places)):
                image = self._converter.convert(picture, orientation(picture))
                if not len(images):
                    images = np.empty((len(indices), *image.shape), np.uint8)
                if image.shape != images.shape[1:]:
                    (old_height, old_width), (height, width) = images.shape[1:3], image.shape[:2]
                    raise SourceUnreadableError(
                        f"{self._spec.location}: its pictures change their size from {old_width}x{old_height} to "
                        f"{width}x{height}; read these parts by themselves"
                    )
                images[places.pop(index)] = image
        if places:
            self._here = None
            raise SourceUnreadableError(
                f"{self._spec.location}: frame {min(places)} does not decode; the file is damaged"
            )
        return images

    def _index_packets(self) -> None:
        times: list[int] = []
        for packet in self._container.demux(self._track):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                return
            times.append(packet.pts)
            if packet.is_keyframe:
                self._keys.append(packet.pts)
        times.sort()
        if all(earlier < later for earlier, later in pairwise(times)):
            self._times = times
            self._keys.sort()

    def _pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode towards each wanted frame, going on from where the last call stopped if that is nearer."""
        for index in wanted:
            target = self._times[index] if self._times else index
            if self._must_seek(target):
                self._restart(target)
            picture = next((found for found in self._running if self._passed(found) >= target), None)
            if picture is not None and self._here == target:
                yield index, picture

    def _must_seek(self, target: int) -> bool:
        """Whether the target was passed already, or a key frame lies between here and there."""
        if self._here is None or target <= self._here:
            return True
        key = self._key_before(target)
        return key is not None and key > self._here

    def _passed(self, picture: av.VideoFrame) -> int:
        """Note that ``picture`` was decoded, and return its time (or its number where times are unknown)."""
        before = -1 if self._here is None else self._here
        self._here = (picture.pts if picture.pts is not None else before) if self._times else before + 1
        return self._here

    def _key_before(self, target: int) -> int | None:
        place = bisect.bisect_right(self._keys, target) - 1
        return self._keys[place] if place >= 0 else None

    def _restart(self, target: int) -> None:
        self._here = None
        if self._times:
            key = self._key_before(target)
            self._container.seek(self._times[0] if key is None else key, stream=self._track)
        else:
            # Reopened, because raw streams and stills cannot seek, not even to their start.
            self._container.close()
            self._container, self._track = self._open()
        self._running = _decoded(self._container, self._track)


class DecordReader(PyAvReader):
    """Random access through decord on the CPU, for comparison and for training sets known to suit it.

    It refuses raw streams, stills and turned videos; it counts packets that an edit list hides.
    """

    def __init__(self, spec: SourceSpec) -> None:
        with needs("decord", "reader 'decord'"):
            import decord
        # decord stops with a cryptic error, or worse, at whatever is no video: PyAV says it better.
        super().__init__(spec)
        with classified(spec):
            self._restart(self._times[0] if self._times else 0)
            first = next(self._running, None)
        super().close()
        if first is None:
            raise SourceUnreadableError(f"{spec.location}: not one frame decodes; the file may be damaged")
        if orientation(first) != UPRIGHT:
            raise SourceUnreadableError(f"{spec.location}: decord cannot turn pictures upright; use the pyav reader")
        try:
            self._reader = decord.VideoReader(spec.url, ctx=decord.cpu(0), num_threads=1)
        except (decord.DECORDError, RuntimeError):
            # Its own words are a source line of its build machine.
            raise SourceUnreadableError(
                f"{spec.location}: decord cannot read this kind of file; use the pyav reader"
            ) from None
        self.fps = float(self._reader.get_avg_fps())

    def __len__(self) -> int:
        return len(self._reader)

    def close(self) -> None:
        """Release decord's decoder and its buffers."""
        del self._reader

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return uint8 RGB (K, H, W, 3); see :meth:`PyAvReader.read`."""
        _check(indices, len(self))
        frames: NDArray[np.uint8] = self._reader.get_batch(list(indices)).asnumpy()
        return frames


def _decoded(container: InputContainer, track: VideoStream) -> Iterator[av.VideoFrame]:
    for packet in container.demux(track):
        try:
            pictures = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            continue  # a damaged packet costs its own frame; read() says which one is missing
        yield from pictures


def _check(indices: Sequence[int], length: int) -> None:
    for index in indices:
        if not 0 <= index < length:
            raise IndexError(f"frame {index} of a clip of {length}")
