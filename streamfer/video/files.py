"""Reading video files, stills and headerless streams from start to end."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from streamfer.errors import SourceUnreadableError
from streamfer.files import sha256_of
from streamfer.redaction import redact_text
from streamfer.video.clock import PtsClock, Tick
from streamfer.video.container import (
    NothingDecodesError,
    classified,
    ends,
    frame_rate,
    media_zero,
    open_container,
    video_stream,
)
from streamfer.video.damage import Health, Judged
from streamfer.video.download import MOST_SECONDS, fetched
from streamfer.video.frames import Frame, FrameFilter, Leap, StateChange, VideoInfo
from streamfer.video.locate import HTTP_SCHEMES, SourceSpec
from streamfer.video.pixels import PictureForm, RgbConverter
from streamfer.video.structure import is_cut_off, is_torn

if TYPE_CHECKING:
    import torch

_ASSUMED_FPS = 25.0
# A download that stops this much before its declared end is reported as cut off (edit lists shift ends a little).
_MISSING_SECONDS = 1.0
_NOTHING = "not one frame decodes; the file may be cut off or damaged"
_MOVING_WEBP = "an animated WebP, which FFmpeg does not decode; convert it to GIF or MP4"
# They state no sizes that could be compared with what came: whether their last picture is whole tells.
_OPEN_ENDED = frozenset({"mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "vc1", "nut"})


class FileSource:
    """A file, or a download over http(s), decoded once from its first to its last frame.

    Damaged stretches are left out and told; a file that is cut off yields what
    decodes and says so in the reason of ``ended``. Anamorphic pixels are not stretched.

    Args:
        spec: what to read, from :func:`streamfer.video.locate.find_sources`.
        timeout: seconds that one network operation may take.
        gpu: number of the GPU that decodes, where damage within a picture goes unseen; None: the CPU does.
    """

    live = False

    def __init__(
        self, spec: SourceSpec, *, decode_threads: int = 1, timeout: float = 20.0, gpu: int | None = None
    ) -> None:
        self.spec = spec
        self.gpu = gpu
        self.decode_threads = decode_threads
        self.timeout = timeout
        self.frames_decoded = 0  #: since the last call of :meth:`stream`
        self._broken = ""
        self._closing = False

    @property
    def source_id(self) -> str:
        """Stable name, free of credentials."""
        return self.spec.source_id

    def close(self) -> None:
        """End the iteration before its next frame, for good."""
        self._closing = True

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        """Yield ``online``, the frames that ``wanted`` accepts in presentation order, and ``ended``.

        Damaged pictures are neither offered nor yielded; ``online`` with ``damage`` tells of a stretch of them.

        A time that jumps back (joined recordings) or far ahead (a clock that was set), or pictures of another size,
        rotation or pixel format, yield ``online`` again, with the new epoch and its facts. ``wall_time`` is the time in
        the file, seconds; it goes on rising over epochs, without leaps.

        Raises:
            SourceNotFoundError: no such file, or the server has none under this address.
            SourceDeniedError: the file or the server refuses access.
            SourceUnreachableError: the server does not answer.
            SourceUnreadableError: not a video, no video track, or not one frame that decodes.
        """
        self.frames_decoded = 0
        self._broken = ""
        if self._closing:
            yield StateChange("ended", 0, time.time(), reason="closed on request")
            return
        online = False
        try:
            for item in self._read(self.spec, wanted):
                online = True
                yield item
        except NothingDecodesError:
            if not online and self.gpu is not None:
                self.gpu = None
                yield from self.stream(wanted)
                return
            if online or self.spec.scheme not in HTTP_SCHEMES:
                raise
            with fetched(self.spec, self.timeout) as copy:
                yield from self._read(copy, wanted)

    def _read(self, spec: SourceSpec, wanted: FrameFilter | None) -> Iterator[Frame | StateChange]:
        """Read the source itself, or a copy of it."""
        epoch_key = _identity(self.spec)
        # Where the index comes last, all before it is read: of what has no end, for ever.
        with open_container(spec, timeout=self.timeout, within=MOST_SECONDS, gpu=self.gpu) as container:
            if spec.remote and not ends(container, spec):
                other = ", at an address that does not end like a file's" if spec.downloadable else ""
                raise SourceUnreadableError(
                    f"{self.spec.location}: a live source, which does not end; watch it with run or stream{other}"
                )
            track = video_stream(container, spec, self.decode_threads)
            zero = media_zero(container)
            health = Health(zero)
            pictures = self._pictures(container, track, health)
            with classified(self.spec):
                first = next(pictures, None)
            if first is None:
                moving = container.format.name.startswith("webp") and not spec.still
                raise NothingDecodesError(f"{self.spec.location}: {_MOVING_WEBP if moving else _NOTHING}")
            form = PictureForm.of(first)
            info = _describe(self.spec, container, track, form, epoch_key=epoch_key)
            time_base = first.time_base or track.time_base or Fraction(1, round(_ASSUMED_FPS))
            clock = PtsClock(time_base, 1 / (frame_rate(track) or _ASSUMED_FPS))
            yield StateChange("online", 0, time.time(), info=info)
            converter = RgbConverter()

            @functools.cache
            def torn() -> bool:
                return spec.stored and is_torn(Path(spec.url))

            def chosen(sure: Sequence[Judged]) -> Iterator[Frame]:
                for one, turn, at in sure:
                    if wanted is None or wanted(at.epoch, float(at.pts * time_base), at.index):
                        yield _frame(*converter.convert_both(one, turn), at, time_base, zero)

            picture: av.VideoFrame | None = first
            while picture is not None and not self._closing:
                before, form = form, PictureForm.of(picture, form)
                tick = clock.tick(picture.pts, picture.duration, form.change_from(before))
                hole = health.pauses(tick, clock.period) and torn()
                yield from chosen(health.take((picture, form.turn, tick), clock, torn=hole))
                if tick.reason:
                    info = replace(info, width=form.width, height=form.height, rotation=form.turn.rotation)
                    leap = Leap(tick.leap, time_base, tick.elapsed, "file") if tick.leap else None
                    yield StateChange("online", tick.epoch, time.time(), tick.reason, info=info, leap=leap)
                yield from _told(health, info)
                picture = next(pictures, None)
            torn_end = container.format.name in _OPEN_ENDED and spec.stored and health.torn
            yield from self._end(spec, health, clock, info, chosen, torn_end=torn_end)

    def _end(
        self,
        spec: SourceSpec,
        health: Health,
        clock: PtsClock,
        info: VideoInfo,
        chosen: Callable[[Sequence[Judged]], Iterator[Frame]],
        *,
        torn_end: bool,
    ) -> Iterator[Frame | StateChange]:
        if self._closing:
            yield StateChange("ended", clock.epoch, time.time(), "closed on request")
            return
        cut_off = self._cut_off(spec, clock, info, torn_end=torn_end, mended=health.mended)
        missing = 0.0 if cut_off else _missing(clock, info)
        torn = missing > 0 and spec.stored and is_torn(Path(spec.url))
        yield from chosen(health.end(clock.epoch, missing, torn=torn, cut_off=bool(cut_off)))
        yield from _told(health, info)
        if not health.whole:
            raise SourceUnreadableError(f"{self.spec.location}: not one picture is whole; copy the file again")
        if not cut_off and health.lacking > _MISSING_SECONDS:
            cut_off = f"nothing whole comes in its last {health.lacking:.1f} s"
        # Where its structure is whole, its sound goes on, or the length that it declares is a lie.
        declared = info.duration or 0.0
        shorter = missing and not (cut_off or health.lacking) and declared - health.until > _MISSING_SECONDS
        lie = f"its pictures end at {health.until:.1f} s of the {declared:.1f} s it declares" if shorter else ""
        words = ", ".join(filter(None, (cut_off, health.words(), lie)))
        yield StateChange("ended", clock.epoch, time.time(), words, cut_off=bool(cut_off))

    def _pictures(self, container: InputContainer, track: VideoStream, health: Health) -> Iterator[av.VideoFrame]:
        """Decode what decodes; a fault of the demuxer ends it only when it repeats at once, or is a server's."""
        # FFmpeg counts AVI's packets, which bear no times: behind a hole its index knows better (a chunk's head is 8).
        avi = container.format.name == "avi"
        index = {entry.pos + 8: entry.timestamp for entry in track.index_entries} if avi else {}
        fruitless = 0
        while fruitless < 2:
            fruitless += 1
            try:
                for packet in container.demux(track):
                    fruitless = 0
                    if packet.dts is not None and (late := index.get(packet.pos or 0, packet.dts) - packet.dts):
                        packet.dts += late
                        packet.pts = None if packet.pts is None else packet.pts + late
                    health.feed(packet)
                    try:
                        pictures = packet.decode()
                    except av.error.EOFError:
                        return
                    except av.error.FFmpegError:
                        health.fail()
                        continue
                    self.frames_decoded += len(pictures)
                    yield from pictures
            except av.error.FFmpegError as error:
                if self.spec.remote and not isinstance(error, av.error.InvalidDataError):
                    self._broken = redact_text(str(error.strerror))
                    return
                health.fail()
            else:
                return

    def _cut_off(self, spec: SourceSpec, clock: PtsClock, info: VideoInfo, *, torn_end: bool, mended: bool) -> str:
        """Say in words what is missing at the end; empty where nothing is."""
        came = f"{clock.elapsed:.1f} s"
        missing = _missing(clock, info) > 0
        of = f" of the {info.duration:.1f} s it declares" if missing else ""
        if spec.remote:
            if self._broken:
                return f"the connection broke at {came}{of} ({self._broken}); try again"
            return f"the download ended at {came}{of}; try again, or the file is cut off there" if missing else ""
        if mended and not missing and info.duration is not None and clock.epoch == 0:
            return ""  # what breaks its structure lies before its end
        with classified(self.spec):
            cut_off = torn_end or is_cut_off(Path(spec.url))
        return f"cut off at {came}{of}" if cut_off else ""


def _frame(
    image: NDArray[np.uint8], surface: torch.Tensor | None, tick: Tick, time_base: Fraction, zero: float
) -> Frame:
    return Frame(
        image=image,
        surface=surface,
        pts=tick.pts,
        time_base=time_base,
        epoch=tick.epoch,
        wall_time=tick.elapsed,
        time_origin="file",
        index=tick.index,
        media_seconds=float(tick.media * time_base) - zero,
    )


def _describe(
    spec: SourceSpec, container: InputContainer, track: VideoStream, form: PictureForm, *, epoch_key: str
) -> VideoInfo:
    still = container.format.name == "image2" or container.format.name.endswith("_pipe") or (spec.stored and spec.still)
    rate = frame_rate(track)
    return VideoInfo(
        source_id=spec.source_id,
        location=spec.location,
        width=form.width,
        height=form.height,
        codec=track.codec_context.name,
        declared_fps=(float(spec.raw_fps) if spec.raw_fps else None) if still or rate is None else rate,
        duration=None if still else _duration(container, track),
        rotation=form.turn.rotation,
        live=False,
        epoch_key=epoch_key,
        still=still,
    )


def _missing(clock: PtsClock, info: VideoInfo) -> float:
    """Return the seconds between the last picture and the end that a file declares; 0 where they are few."""
    missing = (info.duration or 0.0) - clock.end if clock.epoch == 0 else 0.0
    return missing if missing > _MISSING_SECONDS else 0.0


def _told(health: Health, info: VideoInfo) -> Iterator[StateChange]:
    for one in health.fresh():
        yield StateChange("online", one.epoch, time.time(), health.reason, info=info, damage=one)


def _duration(container: InputContainer, track: VideoStream) -> float | None:
    if track.duration and track.time_base:
        return float(track.duration * track.time_base)
    return container.duration / av.time_base if container.duration else None


def _identity(spec: SourceSpec) -> str:
    """Sha256 of the file's bytes; of its address without secrets where they come but once."""
    if not spec.stored and (spec.remote or Path(spec.url).exists()):
        return spec.address_key
    with classified(spec):
        return sha256_of(Path(spec.url))
