"""Opening FFmpeg containers: what they may read, how long they may take, and what their errors mean."""

from __future__ import annotations

import errno
import math
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from streamfer.errors import (
    SourceDeniedError,
    SourceError,
    SourceNotFoundError,
    SourceUnreachableError,
    SourceUnreadableError,
)
from streamfer.redaction import redact_text
from streamfer.video.locate import HTTP_SCHEMES, LIVE_SCHEMES, RAW_SUFFIXES, RTSP_SCHEMES, SourceSpec
from streamfer.video.structure import is_cut_off
from streamfer.video.surfaces import opened, suits

# Demuxers that read one file and nothing else. Playlists (hls, dash, concat), which open what they name, are
# absent; the audio formats are there so that the message can say "no video track".
_FILE_FORMATS = (
    "mov,mp4,matroska,webm,avi,asf,flv,live_flv,mpeg,mpegvideo,mpegts,m4v,h261,h263,h264,hevc,vvc,av1,obu,ivf,"
    "ogg,mxf,nut,yuv4mpegpipe,rawvideo,dv,vc1,gif,apng,mjpeg,mjpeg_2000,webp_anim,image2,jpeg_pipe,png_pipe,"
    "bmp_pipe,webp_pipe,tiff_pipe,jpegxl_pipe,j2k_pipe,jpegls_pipe,ppm_pipe,pgm_pipe,pam_pipe,qoi_pipe,"
    "dhav,rm,wtv,amv,gxf,wav,mp3,aac,flac,caf,aiff,au"
)
_HTTP_PROTOCOLS = "http,https,httpproxy,tls,tcp,crypto"
_RTP_PROTOCOLS = "rtp,srtp,udp"
#: What a stream may open, by its scheme; the empty one is that of a file which describes streams of RTP.
_LIVE_PROTOCOLS = {
    **dict.fromkeys(RTSP_SCHEMES, f"rtsp,rtsps,{_RTP_PROTOCOLS},tcp,tls,http,https,crypto"),
    **dict.fromkeys(("rtmp", "rtmps"), f"rtmp,rtmps,{_HTTP_PROTOCOLS}"),
    "udp": "udp",
    "tcp": "tcp",
    "rtp": _RTP_PROTOCOLS,
    "": f"file,{_RTP_PROTOCOLS}",
}
_LIVE_FORMATS = f"{_FILE_FORMATS},rtsp,hls,mpjpeg,rtp,sdp"
_MOST_FPS = 1000
_PROBED_PICTURES = "3"
# FFmpeg reads FLV without sound for 90 s, for some may come; RTMP begins with what its decoder needs.
_PROBED = {"analyzeduration": "5000000"}
_PROBED_OF_RTMP = {"analyzeduration": "1000000", "probesize": "65536"}
_RECONNECT_SECONDS = "3"
_ZERO_BASED = frozenset({"mov", "mp4", "matroska", "webm"})
_SILENT = frozenset({"mpeg1video", "mpeg2video"})
_CUT_OFF = "not a video that can be decoded, for it is cut off; copy it again"
_WEBCAM_FORMAT = "video4linux2,v4l2"


class NothingDecodesError(SourceUnreadableError):
    """Not one picture comes out of a source: a copy of the whole, or why there is none, may tell more."""


#: Metadata that are no UTF-8 must not keep a video from being opened; PyAV 19 no longer takes the argument.
_METADATA: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


def open_container(
    spec: SourceSpec, *, timeout: float, transport: str = "tcp", within: float | None = None, gpu: int | None = None
) -> InputContainer:
    """Open the source of ``spec`` with only the protocols and formats that its kind needs.

    One network operation may take ``timeout`` seconds (FFmpeg's own option; it may retry), connecting and probing
    ``within`` seconds each: a server that redirects in a circle, or sends a byte a second, keeps no operation waiting.

    Raises:
        SourceError: it cannot be opened; see :func:`classify`.
    """
    target, container_format, options = _open_arguments(spec, timeout, transport)
    with classified(spec), _pipe(spec, timeout) as pipe:
        if pipe is not None:
            target, options["protocol_whitelist"] = f"pipe:{pipe}", "pipe"
        try:
            # No limit for what follows: PyAV would take the interpreter's lock for each look at the clock.
            limits: dict[str, Any] = {**_METADATA, "timeout": within and (within, None)}
            limits |= {"format": container_format, "options": options}
            # What does not suit is opened again, which pipes, webcams and what is received do not allow.
            again = pipe is None and spec.kind != "webcam" and not spec.received
            container: InputContainer
            container, there = opened(gpu if again else None, lambda hw: av.open(target, "r", hwaccel=hw, **limits))
            if there and not suits(container.streams.best("video")):
                container.close()
                container = av.open(target, "r", **limits)
        except av.error.InvalidDataError:
            if not spec.remote and is_cut_off(Path(spec.url)):
                raise SourceUnreadableError(f"{spec.location}: {_CUT_OFF}") from None
            raise
        return container


@contextmanager
def _pipe(spec: SourceSpec, timeout: float) -> Iterator[int | None]:
    """Open a named pipe into which something is written, and give its number, which FFmpeg copies."""
    if spec.remote or spec.kind == "webcam" or not Path(spec.url).is_fifo():
        yield None
        return
    pipe = os.open(spec.url, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not select.select([pipe], [], [], timeout)[0]:
            raise SourceUnreachableError(f"{spec.location}: nothing is written into this pipe; start its writer first")
        os.set_blocking(pipe, True)
        yield pipe
    finally:
        os.close(pipe)


def ends(container: InputContainer, spec: SourceSpec) -> bool:
    """Whether what was opened has an end, a stated length or a number of bytes, and waits until it is asked for more.

    What keeps the pace itself (RTSP, RTMP, whatever is received) is live whatever length it states.
    """
    if spec.scheme in LIVE_SCHEMES or spec.session:
        return False
    # The bytes of a playlist are not those of its video.
    return bool(container.duration) or (container.format.name != "hls" and container.size > 0)


def media_zero(container: InputContainer) -> float:
    """Return the time from which players count, in seconds of the container's own clock.

    MP4 and Matroska count from 0 wherever their first picture lies; others begin where they begin.
    """
    if _ZERO_BASED.intersection(container.format.name.split(",")) or container.start_time is None:
        return 0.0
    return container.start_time / av.time_base


def frame_rate(track: VideoStream) -> float | None:
    """Return the rate that a container states, frames a second; None where it states none that can be one.

    Where FFmpeg knows a single frame (DV tapes), its average is the reciprocal of the time base.
    """
    rates = (track.average_rate, track.guessed_rate, track.base_rate)
    return next((float(rate) for rate in rates if rate and rate < _MOST_FPS), None)


def video_stream(container: InputContainer, spec: SourceSpec, decode_threads: int) -> VideoStream:
    """Return the picture track that a player would show, its decoder bounded to ``decode_threads`` threads.

    Raises:
        SourceUnreadableError: there is no video track, or no decoder for it.
    """
    stream = container.streams.best("video")
    cover = isinstance(stream, VideoStream) and Disposition.attached_pic in stream.disposition
    if not isinstance(stream, VideoStream) or cover:
        if not spec.remote and not container.streams.audio and is_cut_off(Path(spec.url)):
            raise SourceUnreadableError(f"{spec.location}: {_CUT_OFF}")
        tracks = {"a cover picture" if cover and other is stream else other.type for other in container.streams}
        found = ", ".join(sorted(tracks)) or "no track at all"
        raise SourceUnreadableError(f"{spec.location}: no video track (found: {found}); give a file with pictures")
    if stream.codec_context is None:
        raise SourceUnreadableError(f"{spec.location}: no decoder for its video; convert it to H.264 first")
    if Disposition.dependent in stream.disposition:
        # Telephones' HEIC, large AVIF: FFmpeg gives each tile as a track.
        raise SourceUnreadableError(
            f"{spec.location}: a picture of {len(container.streams.video)} tiles, which are not put together here; "
            "convert it to JPEG or PNG"
        )
    # Slices of MPEG-2 that decode side by side keep their damage to themselves.
    threads = 1 if stream.codec_context.name in _SILENT else decode_threads
    stream.thread_type = "AUTO" if threads > 1 and not stream.codec_context.is_hwaccel else "SLICE"
    stream.codec_context.thread_count = threads
    return stream


def _open_arguments(spec: SourceSpec, timeout: float, transport: str) -> tuple[str, str | None, dict[str, str]]:
    if spec.kind == "webcam":
        return spec.url, _WEBCAM_FORMAT, {}
    if not spec.remote and not spec.session:
        return _file_arguments(spec)
    microseconds = str(round(timeout * 1e6))
    protocols = _LIVE_PROTOCOLS.get(spec.scheme, _HTTP_PROTOCOLS)
    formats = _LIVE_FORMATS if spec.live or not spec.downloadable else _FILE_FORMATS
    options = {"protocol_whitelist": protocols, "format_whitelist": formats}
    # FFmpeg waits for twenty pictures to learn the rate: seconds in which a camera that is back gives none.
    probed = _PROBED_OF_RTMP if spec.scheme.startswith("rtmp") else _PROBED
    options |= {"fpsprobesize": _PROBED_PICTURES, **probed} if spec.live else {}
    if spec.scheme in RTSP_SCHEMES:
        return spec.url, None, options | {"rtsp_transport": transport, "timeout": microseconds}
    if spec.scheme == "rtp" or spec.session:
        target = spec.url if spec.remote else f"file:{os.path.abspath(spec.url)}"
        return target, None, options | {"listen_timeout": f"{timeout:g}"}
    # Packets that come faster than they are decoded are lost; else FFmpeg ends the stream.
    options |= {"timeout": microseconds, "overrun_nonfatal": "1"} if spec.scheme == "udp" else {}
    options |= {"rw_timeout": microseconds}
    if spec.scheme in HTTP_SCHEMES and spec.live:
        # A playlist that no longer grows is read again each half of a segment (at least a second long): not for ever.
        options["max_reload"] = str(math.ceil(2 * timeout))
    elif spec.scheme in HTTP_SCHEMES:
        # A download that breaks goes on where it was; not for ever.
        options |= {"reconnect": "1", "reconnect_on_network_error": "1", "reconnect_delay_max": _RECONNECT_SECONDS}
    return spec.url, None, options


def _file_arguments(spec: SourceSpec) -> tuple[str, str | None, dict[str, str]]:
    # "file:" keeps a colon in a name from reading as a protocol, pattern_type a "%03d" from reading as a sequence.
    path = Path(spec.url)
    if path.is_file() and path.stat().st_size == 0:
        raise SourceUnreadableError(f"{spec.location}: the file is empty; copy it again")
    target = f"file:{os.path.abspath(spec.url)}"
    options = {"protocol_whitelist": "file", "format_whitelist": _FILE_FORMATS, "pattern_type": "none"}
    if spec.raw_fps is not None:
        options["framerate"] = str(spec.raw_fps)
    if path.suffix.lower() not in RAW_SUFFIXES:
        return target, None, options
    if spec.raw_size is None or spec.raw_fps is None:
        missing = " and ".join(["size"] * (spec.raw_size is None) + ["rate"] * (spec.raw_fps is None))
        raise SourceUnreadableError(
            f"{spec.location}: raw video without a {missing}; name it like clip_320x192_12fps.yuv"
        )
    width, height = spec.raw_size
    return (target, "rawvideo", options | {"video_size": f"{width}x{height}", "pixel_format": spec.raw_pixel_format})


@contextmanager
def classified(spec: SourceSpec) -> Iterator[None]:
    """Turn what FFmpeg raises inside the block into the exception tree of streamfer."""
    try:
        yield
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise classify(spec, error) from None


# First match wins. The words go between the place and the way FFmpeg puts it.
_Meaning = tuple[type[Exception] | tuple[type[Exception], ...], type[SourceError], str, str]
_REFUSED = (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)
_NO_VIDEO = (av.error.InvalidDataError, av.error.ArgumentError, av.error.LookupError, ValueError)
_REMOTE_MEANINGS: tuple[_Meaning, ...] = (
    (_REFUSED, SourceDeniedError, "the server refused the credentials", "check user and password"),
    (av.error.HTTPNotFoundError, SourceNotFoundError, "the server has nothing there", "check the path"),
    (av.error.HTTPClientError, SourceUnreadableError, "the server refused the request", "check the URL"),
    (_NO_VIDEO, NothingDecodesError, "answers, but not with a video that can be decoded", "check the URL"),
    (Exception, SourceUnreachableError, "gives no video", "check that it is switched on and reachable"),
)
_OF_THIS_MACHINE = {
    errno.EADDRINUSE: ("something else on this machine receives from this port", "end that, or use another port"),
    errno.EMFILE: ("this process may open no more files", "raise its limit (ulimit -n), or read fewer sources"),
    errno.ENFILE: ("this machine can open no more files", "raise fs.file-max, or end what holds them"),
}
_NOT_RECEIVED = "check its addresses, and that nothing else receives from its ports"
_RTP_MEANINGS: tuple[_Meaning, ...] = (
    (_NO_VIDEO, NothingDecodesError, "RTP that does not say what it holds", "give the path of its SDP file instead"),
    *_REMOTE_MEANINGS,
)
_BROKEN = "it may be cut off, still being written, or something else"
_LOCAL_MEANINGS: tuple[_Meaning, ...] = (
    (FileNotFoundError, SourceNotFoundError, "does not exist", "check the path"),
    (PermissionError, SourceDeniedError, "not allowed to read it", "check its permissions"),
    (IsADirectoryError, SourceUnreadableError, "is a folder", "name a file in it"),
    (Exception, SourceUnreadableError, "not a video that can be decoded", _BROKEN),
)
_SESSION_MEANINGS: tuple[_Meaning, ...] = (
    *_LOCAL_MEANINGS[:2],
    (_NO_VIDEO, NothingDecodesError, "nothing that it describes can be received", _NOT_RECEIVED),
    *_REMOTE_MEANINGS,
)
_WEBCAM_MEANINGS: tuple[_Meaning, ...] = (
    *_LOCAL_MEANINGS[:2],
    (Exception, SourceUnreachableError, "the camera does not answer", "check that nothing else uses it"),
)


def classify(spec: SourceSpec, error: Exception) -> SourceError:
    """Say in one line, without credentials, what an FFmpeg error means for the user."""
    if spec.kind == "webcam":
        table = _WEBCAM_MEANINGS
    elif spec.session:
        table = _SESSION_MEANINGS
    elif spec.scheme == "rtp":
        table = _RTP_MEANINGS
    else:
        table = _REMOTE_MEANINGS if spec.remote else _LOCAL_MEANINGS
    meant, words, way_out = next(row[1:] for row in table if isinstance(error, row[0]))
    if (number := getattr(error, "errno", None)) in _OF_THIS_MACHINE:
        meant, (words, way_out) = SourceUnreachableError, _OF_THIS_MACHINE[number]
    said = redact_text(str(getattr(error, "strerror", None) or error)).replace("\n", " ")
    return meant(f"{spec.location}: {words} ({said}); {way_out}")
