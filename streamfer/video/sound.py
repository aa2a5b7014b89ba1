"""The sound of a file, carried over to a copy of its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import av
import av.error
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from streamfer.closing import Closing
from streamfer.video.container import media_zero, open_container
from streamfer.video.locate import SourceSpec

#: Copied as it is; what else a file may hold is encoded anew, because not every player of MP4 reads it.
_COPIED = "aac"
#: Sound may begin before the first picture of a stretch and go on after its last.
_SLACK_SECONDS = 1.0


@dataclass(slots=True)
class _Stretch:
    """A stretch of a file whose clock runs on: container times, and how much later the copy shows them (seconds)."""

    begin: float
    end: float
    shift: float


class Sound(Closing):
    """The first sound track of a file, read beside its pictures and written at the times that they have in the copy."""

    def __init__(self, spec: SourceSpec) -> None:
        self._container = open_container(spec, timeout=20.0)
        self._zero = media_zero(self._container)
        self._track = next(iter(self._container.streams.audio), None)
        self._stretches: list[_Stretch] = []
        self._packets = self._read()
        self._waiting: Packet[AudioStream] | None = None
        self._made: AudioStream | None = None
        self._copies = True
        self._last = -1.0

    def close(self) -> None:
        self._container.close()

    def begin(self, container: OutputContainer) -> None:
        """Add the track to a file whose first packet is not written yet."""
        if self._track is None or self._track.codec_context is None:
            return
        self._copies = self._track.codec_context.name == _COPIED
        if self._copies:
            self._made = container.add_stream_from_template(self._track)
        else:
            self._made = container.add_stream("aac", rate=self._track.codec_context.sample_rate or 48_000)

    def picture(self, media: float, shown: float, *, new: bool) -> None:
        """Say at which time a picture is shown in the copy.

        Args:
            media: its time in the file's container, seconds.
            shown: its time in the copy, seconds.
            new: the file's clock does not run on from the picture before.
        """
        if new or not self._stretches:
            # Whatever is heard before the first picture belongs to it.
            begin = media - _SLACK_SECONDS if self._stretches else float("-inf")
            self._stretches.append(_Stretch(begin, media, shown - media))
        self._stretches[-1].end = media

    def write(self, container: OutputContainer, until: float) -> None:
        """Write what is heard up to a time of the copy, seconds; infinity ends the track."""
        if self._made is None:
            return
        ended = until == float("inf")
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = packet
            moment = float((packet.pts or 0) * packet.time_base) - self._zero
            shift = self._shift(moment, ended=ended)
            if not ended and (shift is None or moment + shift > until):
                return
            self._waiting = None
            if shift is not None and moment + shift > self._last and moment + shift >= 0:
                self._last = moment + shift
                self._put(container, packet, shift)
        if ended and not self._copies:
            container.mux(self._made.encode(None))

    def _put(self, container: OutputContainer, packet: Packet[AudioStream], shift: float) -> None:
        packet.pts = packet.dts = (packet.pts or 0) + round((shift - self._zero) / packet.time_base)
        if self._made is None:
            return
        if self._copies:
            packet.stream = self._made
            container.mux(packet)
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            return  # damaged sound is silence in the copy, too
        for frame in frames:
            container.mux(self._made.encode(frame))

    def _read(self) -> Iterator[Packet[AudioStream]]:
        if self._track is None:
            return
        try:
            for packet in self._container.demux(self._track):
                if packet.pts is not None and packet.size:
                    yield packet
        except av.error.FFmpegError:
            return  # a file that is cut off has no more

    def _shift(self, moment: float, *, ended: bool) -> float | None:
        """Return how much later the copy shows a time of the container; None where that is not known (yet)."""
        for stretch in reversed(self._stretches):
            last = ended and stretch is self._stretches[-1]
            if stretch.begin <= moment and (last or moment <= stretch.end + _SLACK_SECONDS):
                return stretch.shift
        return None
