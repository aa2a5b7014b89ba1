"""Stretches of a file whose pictures are missing, or partly made up by a decoder that hides what it cannot read."""

from __future__ import annotations

import heapq
import math

import av
from av.packet import Packet
from av.video.stream import VideoStream

from streamfer.video.clock import PtsClock, Tick
from streamfer.video.frames import Damage
from streamfer.video.pixels import Orientation

#: Without a key picture, what refreshes bit by bit has healed after so long.
_HEALED_SECONDS = 10.0
#: A pause of so many pictures is a hole where a packet is known to be damaged, or the container itself is torn.
_LOST_PERIODS = 0.6
_LISTED = 5
#: Codecs that decode zeros without a word and never write so many: a sector that was lost, a download with holes.
_DENSE, _ZEROS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d"}), bytes(512)

Moment = tuple[float, float]
Judged = tuple[av.VideoFrame, Orientation, Tick]


class Health:
    """Tells whole pictures from damaged ones, and where a stretch of the latter begins and ends.

    A stretch begins where the last whole picture ends and lasts until a key picture comes, for all between are built
    upon what was lost. Which packets became no picture is told by their times, so that it does not depend on how many
    threads decode.

    Args:
        lead: what players count from, seconds of the container's own clock.
    """

    reason = "pictures do not decode, or only in part"

    def __init__(self, lead: float) -> None:
        self._lead = lead
        self._failures = 0
        self._stretches: list[Damage] = []
        self._told = 0
        self._fed: list[int] = []
        self._blank: set[int] = set()
        #: Highest time of a packet that was fed when one failed; once it has passed, nothing is missing any more.
        self._failed: float | None = None
        self._latest = -math.inf
        #: By both clocks: end of the last whole picture, and of the last one; begins of a stretch that is open, and of
        #: the last whole picture.
        self._good: Moment | None = None
        self._seen: Moment = (0.0, 0.0)
        self._since: Moment | None = None
        self._last: Moment = (0.0, 0.0)
        self._held: list[Judged] = []
        self._hurt = self._now = 0.0
        self.whole = self.mended = False  #: a picture was; one was behind a damaged stretch
        self.lacking = 0.0  #: seconds at the end of the file in which none was
        self._pictures = 0

    def feed(self, packet: Packet[VideoStream]) -> None:
        """Take a packet that is decoded next."""
        if packet.pts is not None and packet.size and not packet.is_discard:
            heapq.heappush(self._fed, packet.pts)
            self._latest = max(self._latest, packet.pts)
            if packet.stream.codec_context.name in _DENSE and _ZEROS in bytes(packet):
                self._blank.add(packet.pts)
        if packet.is_corrupt:
            self._failed = self._latest

    def fail(self) -> None:
        """Take note that a packet did not decode, or that the demuxer lost its way."""
        self._failures += 1
        self._failed = self._latest

    def pauses(self, tick: Tick, period: float) -> bool:
        """Whether so long a pause lies ahead of a picture that something may be missing there."""
        return self._good is not None and not tick.reason and tick.elapsed - self._seen[0] > _LOST_PERIODS * period

    def take(self, judged: Judged, clock: PtsClock, *, torn: bool = False) -> list[Judged]:
        """Take the next picture, in order of time, and return the one before if it is whole for sure.

        A picture is sure one later: what damages the next may begin in its own last bytes, which some decoders accept.

        Args:
            judged: the picture, how it is turned, and its place.
            torn: something is missing ahead of it.
        """
        picture, _, tick = judged
        lost = 0
        while self._fed and picture.pts is not None and self._fed[0] <= picture.pts:
            lost += heapq.heappop(self._fed) < picture.pts
        begin = tick.elapsed, float(tick.media * clock.time_base) - self._lead
        if self._failed is not None:
            torn |= lost > 0 or picture.pts is None or self.pauses(tick, clock.period)
            self._failed = None if torn or (picture.pts or 0) > self._failed else self._failed
        if tick.reason:
            self._close(tick.epoch - 1, self._seen)
            self._good = None
        self._seen = clock.elapsed, begin[1] + clock.elapsed - tick.elapsed
        corrupt = picture.is_corrupt or picture.pts in self._blank
        if corrupt or torn:
            self._open(lost, begin, doubtful=torn and not tick.reason)
            self._hurt = tick.elapsed
        self._now = tick.elapsed
        sure, self._held = self._held, []
        healed = picture.key_frame or tick.elapsed - self._hurt > _HEALED_SECONDS
        if self._since is not None and (corrupt or not healed):
            self._pictures += 1
            return sure
        self.mended |= self._since is not None
        self._close(tick.epoch, begin)
        self._good, self._last, self._held, self.whole = self._seen, begin, [judged], True
        return sure

    def end(self, epoch: int, missing: float, *, torn: bool, cut_off: bool) -> list[Judged]:
        """Close what is open at the end of the file, ``missing`` seconds of which never came; return as above."""
        if not cut_off and ((self._failed is not None and self._fed) or (missing and torn)):
            self._open(len(self._fed), (0.0, 0.0), doubtful=True)
        if self._since is not None:
            self.lacking = self._seen[0] + missing - self._since[0]
        self._close(epoch, (self._seen[0] + missing, self._seen[1] + missing))
        return self._held

    @property
    def torn(self) -> bool:
        """Whether the last picture so far is not whole."""
        return self._failed is not None or (self._since is not None and self._hurt == self._now)

    @property
    def until(self) -> float:
        """When the last picture ends by the file's own clock, seconds."""
        return self._seen[1]

    def fresh(self) -> list[Damage]:
        """Return the stretches that are over and were not returned yet."""
        fresh, self._told = self._stretches[self._told :], len(self._stretches)
        return fresh

    def words(self) -> str:
        """Say where the damage lies; empty where there is none."""
        timed = [one for one in self._stretches if one.end > one.begin]
        if not timed:
            packets = f"{self._failures} damaged packet{'s' if self._failures > 1 else ''} skipped"
            return packets if self._failures else ""
        listed = ", ".join(f"{one.begin:.2f} to {one.end:.2f} s" for one in timed[:_LISTED])
        more = len(timed) - _LISTED
        return f"damaged and left out: {listed}{f' and {more} more stretches' if more > 0 else ''}"

    def _open(self, lost: int, begin: Moment, *, doubtful: bool) -> None:
        """Begin a stretch behind the last whole picture, or with it where it is doubtful; it may be open already."""
        self._pictures += lost
        if self._since is None and doubtful and self._held:
            self._since, self._held = self._last, []
            self._pictures += 1
        self._since = self._since or self._good or begin

    def _close(self, epoch: int, end: Moment) -> None:
        if self._since is not None:
            (begin, media_begin), pictures = self._since, self._pictures
            self._stretches.append(
                Damage(epoch, pictures, begin, max(begin, end[0]), media_begin, max(media_begin, end[1]))
            )
        self._since, self._pictures = None, 0
