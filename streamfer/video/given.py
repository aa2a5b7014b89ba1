"""Frames that the caller gives, as a source: an array of a video, or times and pictures one by one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfer.errors import ConfigError
from streamfer.video.frames import Frame, FrameFilter, StateChange, VideoInfo

_TIME_BASE = Fraction(1, 1_000_000)
_EXPECTED = "expected uint8 RGB of shape (height, width, 3)"

GivenFrames = NDArray[np.uint8] | Iterable[NDArray[np.uint8]] | Iterable[tuple[float, NDArray[np.uint8]]]


class GivenSource:
    """A source of given frames; a change of their size, or a time that does not rise, begins a new epoch.

    Args:
        frames: uint8 RGB (T, H, W, 3), pictures (H, W, 3) one by one, or pairs of seconds and picture.
        fps: frames a second; pairs bring their times.

    Raises:
        ConfigError: an array of another shape or type, an array without ``fps``, or no name.
    """

    live = False

    def __init__(self, frames: GivenFrames, *, fps: float | None = None, source_id: str = "frames") -> None:
        given: Any = frames
        if not isinstance(source_id, str) or not source_id:
            raise ConfigError("name: expected a word for the records of these frames")
        array = np.asarray(given) if hasattr(given, "__array__") else None
        if array is None and (isinstance(given, str | bytes) or not isinstance(given, Iterable)):
            raise ConfigError(
                f"frames: a {type(given).__name__}; expected an array (frames, height, width, 3) with frame_rate, or "
                "pairs of (seconds, frame)"
            )
        if (array is not None or fps is not None) and not _positive(fps):
            raise ConfigError("frame_rate: expected a number: how many frames of the array make a second?")
        if array is not None:
            if array.ndim != 4:
                hint = (
                    "; one picture is numpy.expand_dims(frames, 0)"
                    if array.shape[2:] == (3,)
                    else _way_out(array.shape[1:])
                )
                raise ConfigError(
                    f"frames: shape {array.shape}; expected uint8 RGB of shape (frames, height, width, 3){hint}"
                )
            _check(array[:1], "frames")
        self._given: Iterable[Any] = given if array is None else array
        self._fps = fps
        self._duration = None if fps is None or array is None else len(array) / fps
        self.source_id = source_id
        self.frames_decoded = 0
        self._closed = False

    def close(self) -> None:
        """End the iteration before its next frame, for good."""
        self._closed = True

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        """Yield ``online``, the frames that ``wanted`` accepts, and ``ended``.

        Raises:
            ConfigError: a frame of another shape or type than a picture's, or what gives the frames failed.
        """
        self.frames_decoded = 0
        began = round(time.time() * 1000)
        epoch, index, zero, before = -1, 0, 0.0, 0.0
        size: tuple[int, ...] = ()
        for number, pair in self._numbered():
            if self._closed:
                break
            seconds, picture = _pair(pair, number)
            _check(picture[None], f"frame {number}")
            if picture.shape != size or seconds <= before:
                epoch, index, zero, size = epoch + 1, 0, seconds, picture.shape
                reason = "the frames' size or clock changed" if epoch else ""
                info = self._info(picture, f"{began}-{epoch}")
                yield StateChange("online", epoch, time.time(), reason, info=info)
            before = seconds
            self.frames_decoded += 1
            pts = round((seconds - zero) / _TIME_BASE)
            if wanted is None or wanted(epoch, float(pts * _TIME_BASE), index):
                yield Frame(np.ascontiguousarray(picture), pts, _TIME_BASE, epoch, seconds, "file", index)
            index += 1
        if epoch < 0 and not self._closed:
            raise ConfigError("frames: there is none")
        yield StateChange("ended", max(0, epoch), time.time(), reason="closed on request" if self._closed else "")

    def _numbered(self) -> Iterator[tuple[int, Any]]:
        try:
            for number, one in enumerate(self._given):
                yield number, one if self._fps is None else (number / self._fps, one)
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # of the caller's own code, no defect of ours
            raise ConfigError(f"frames: what gives them failed ({type(error).__name__}: {error})") from error

    def _info(self, picture: NDArray[np.uint8], key: str) -> VideoInfo:
        height, width = picture.shape[:2]
        return VideoInfo(
            source_id=self.source_id,
            location=self.source_id,
            width=width,
            height=height,
            codec="given",
            declared_fps=self._fps,
            duration=self._duration,
            rotation=0,
            live=False,
            epoch_key=key,
        )


def _positive(rate: Any) -> bool:
    return rate is not True and isinstance(rate, Real) and 0 < float(rate) < math.inf


def _pair(pair: Any, number: int) -> tuple[float, NDArray[np.uint8]]:
    try:
        seconds, picture = pair
        seconds = float(seconds)
    except (TypeError, ValueError):
        raise ConfigError(
            f"frame {number}: a {type(pair).__name__}; expected a pair (seconds, frame), the frame {_EXPECTED[9:]}"
        ) from None
    if not math.isfinite(seconds):
        raise ConfigError(f"frame {number}: its time is {seconds}; expected seconds")
    if isinstance(picture, tuple | list):
        raise ConfigError(f"frame {number}: a pair, and frame_rate; pairs of (seconds, frame) bring their own times")
    return seconds, np.asarray(picture)


def _check(pictures: NDArray[Any], what: str) -> None:
    """Refuse what is no picture, by its shape and type; never by its numbers."""
    shape = pictures.shape[1:]
    if pictures.dtype != np.uint8:
        scale = "; of 0 to 1 make it (frames * 255).astype('uint8')" if pictures.dtype.kind == "f" else ""
        raise ConfigError(f"{what}: {pictures.dtype} of shape {shape}; {_EXPECTED}{scale}")
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ConfigError(f"{what}: shape {shape}; {_EXPECTED}{_way_out(shape)}")


def _way_out(shape: tuple[int, ...]) -> str:
    """Return how pictures of another layout become what is expected; nothing where that is not clear."""
    if len(shape) == 3 and shape[0] == 3:
        return "; channels go last: numpy.moveaxis(frames, -3, -1)"
    if len(shape) == 3 and shape[2] == 4:
        return "; leave the fourth channel, of transparency, away"
    if len(shape) == 2 or shape[2:] == (1,):
        return "; grey ones have their channel three times: numpy.stack((grey, grey, grey), -1)"
    return ""
