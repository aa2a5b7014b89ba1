"""One connection to a live source: a thread that decodes, so that its owner never blocks in FFmpeg."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import median

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from streamfer.errors import SourceError
from streamfer.video.clock import steady_now
from streamfer.video.container import classified, classify, ends, frame_rate, media_zero, open_container, video_stream
from streamfer.video.locate import SourceSpec
from streamfer.video.playlist import Playlist

_QUEUE_PICTURES = 4
_HANDOVER_SECONDS = 0.1
# Their demuxers number the frames at an assumed 25 a second: only the time of arrival is true.
_UNTIMED_FORMATS = frozenset({"mpjpeg", "mjpeg", "image2"})
_UNTIMED_START = 5
# Of RTP alone it is sure that pictures have the times at which they were taken.
_RTP_FORMATS = frozenset({"rtsp", "rtp", "sdp"})
# Of so many the median is the usual time between two pictures, whatever rate is declared.
_USUAL_STEPS = 16
# A longer hole is a clock that was set, or an outage.
_MOST_MISSING = 1000


@dataclass(frozen=True, slots=True)
class Opened:
    """What the container says once it is open."""

    codec: str
    rate: float | None  #: frames a second, or None
    duration: float | None  #: seconds, or None
    time_base: Fraction  #: seconds a unit of the frames' times
    #: whether it has an end (video on demand): then no frame may be dropped, and times are the video's
    ends: bool = False
    zero: float = 0.0  #: where its players begin to count, seconds


@dataclass(frozen=True, slots=True)
class Arrival:
    """One decoded picture."""

    picture: av.VideoFrame  #: FFmpeg's picture, not converted
    pts: int  #: in ``Opened.time_base`` units, by the stream's clock or, where it has none, by the time of arrival
    arrived: float  #: Unix time, seconds
    steady: float  #: the same by a clock that nobody sets
    #: Unix time by RTCP sender reports, seconds; None before the first report and for other protocols
    captured: float | None
    #: pictures of the source that never came whole until now, by cause
    lost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is over: ``error`` says why, None when the other side ended the stream in good order."""

    error: SourceError | None
    silent: bool = False  #: whether nothing came for the time that one network operation may take


Event = Opened | Arrival | Lost


class _Losses:
    """Counts pictures that do not decode, and those that a stream's even times show to be missing."""

    def __init__(self, totals: Counter[str], *, counts_missing: bool) -> None:
        self._totals = totals
        self._counts_missing = counts_missing
        self._steps: deque[int] = deque(maxlen=_USUAL_STEPS)
        self._last: int | None = None
        self._damaged = 0

    def damaged(self) -> None:
        """Take a packet that does not decode."""
        self._totals["decode_error"], self._damaged = self._totals["decode_error"] + 1, self._damaged + 1

    def picture(self, pts: int) -> None:
        """Take the time of the next picture."""
        step = 0 if self._last is None else pts - self._last
        self._last = pts
        if self._counts_missing and step > 0:
            usual = median(self._steps) if len(self._steps) == _USUAL_STEPS else step
            missing = round(step / usual) - 1 - self._damaged
            self._totals["packet_loss"] += missing if 0 < missing <= _MOST_MISSING else 0
            self._steps.append(step)
        self._damaged = 0


class Connection:
    """Opens ``spec`` and decodes it in a thread of its own until it ends, fails, or is abandoned.

    FFmpeg calls can block for a multiple of their timeouts and cannot be interrupted from Python: so the owner
    waits on a queue, and abandons a thread that is stuck; FFmpeg's own timeout ends that thread later.

    Args:
        timeout: seconds that one network operation may take.
        within: seconds that connecting and probing may take each.
        transport: RTSP transport, ``tcp`` or ``udp``.
        gpu: number of the GPU that decodes; None: the CPU does.
        lost: counts of the source's lost pictures, which go on from one connection to the next.
        playlist: the same of what it gave, should it be a live playlist.
    """

    def __init__(
        self,
        spec: SourceSpec,
        *,
        decode_threads: int,
        timeout: float,
        within: float,
        transport: str,
        gpu: int | None = None,
        lost: Counter[str],
        playlist: Playlist,
    ) -> None:
        self._spec = spec
        self._playlist = playlist
        self._lost = lost
        self._decode_threads = decode_threads
        self._events: queue.Queue[Event] = queue.Queue(_QUEUE_PICTURES)
        self._abandoned = threading.Event()
        how = timeout, within, transport, gpu
        self._thread = threading.Thread(target=self._run, args=how, name=f"decode {spec.source_id}", daemon=True)
        self._thread.start()

    def next_event(self, seconds: float) -> Event | None:
        """Wait up to ``seconds`` for the next event; None when there was none."""
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return None

    @property
    def alive(self) -> bool:
        """Whether its thread is still at work, or stuck."""
        return self._thread.is_alive()

    def abandon(self, seconds: float = 0.5) -> None:
        """Tell the thread to close the container, and wait up to ``seconds`` for it."""
        self._abandoned.set()
        self._thread.join(seconds)

    def _run(self, timeout: float, within: float, transport: str, gpu: int | None) -> None:
        try:
            with open_container(self._spec, timeout=timeout, within=within, transport=transport, gpu=gpu) as container:
                track = video_stream(container, self._spec, self._decode_threads)
                with classified(self._spec):
                    self._decode(container, track)
            self._hand_over(Lost(None))
        except SourceError as error:
            self._hand_over(Lost(error, isinstance(error.__context__, TimeoutError)))
        except Exception as error:  # a thread must never die silently: its owner would wait for ever
            self._hand_over(Lost(classify(self._spec, error)))

    def _decode(self, container: InputContainer, track: VideoStream) -> None:
        time_base = track.time_base or Fraction(1, av.time_base)
        duration = container.duration / av.time_base if container.duration else None
        rate = frame_rate(track)
        facts = (rate, duration, time_base, ends(container, self._spec), media_zero(container))
        self._hand_over(Opened(track.codec_context.name, *facts))
        by_arrival = container.format.name in _UNTIMED_FORMATS
        playlist = self._playlist if container.format.name == "hls" and not facts[3] else None
        if playlist is not None:
            playlist.begin()
        untimed = 0
        losses = _Losses(self._lost, counts_missing=container.format.name in _RTP_FORMATS)
        for packet in container.demux(track):
            if self._abandoned.is_set():
                return
            if playlist is not None and packet.pts is not None:
                playlist.packet(packet.pts, packet.size)
            try:
                pictures = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                losses.damaged()
                continue  # the next key frame mends the picture
            for picture in pictures:
                if playlist is not None and picture.pts is not None:
                    if playlist.came_already(picture.pts):
                        continue
                    self._abandoned.wait(playlist.early(float(picture.pts * time_base)))
                arrived = time.time()
                if picture.pts is None and not by_arrival:
                    # Probing decodes the first picture without its time; the true times follow at once.
                    untimed += 1
                    by_arrival = untimed >= _UNTIMED_START
                    continue
                pts = round(arrived / time_base) if by_arrival or picture.pts is None else picture.pts
                captured = None if by_arrival else _captured(container, pts, time_base)
                losses.picture(pts)
                self._hand_over(Arrival(picture, pts, arrived, steady_now(), captured, dict(self._lost)))

    def _hand_over(self, event: Event) -> None:
        while not self._abandoned.is_set():
            try:
                self._events.put(event, timeout=_HANDOVER_SECONDS)
            except queue.Full:
                continue
            return


def _captured(container: InputContainer, pts: int, time_base: Fraction) -> float | None:
    """Unix time of ``pts`` by the sender's clock: FFmpeg relates RTCP's NTP time to the zero of the stream's times."""
    origin = container.start_time_realtime
    return None if origin is None else origin / 1e6 + float(pts * time_base)
