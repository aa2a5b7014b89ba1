"""Live playlists (HLS): segments come whole, ahead of their time, and the last ones again with each new connection."""

from __future__ import annotations

import time

#: Packets that are remembered: at 60 a second, the last 80 seconds.
_REMEMBERED = 5000
#: A longer step of the stream's clock is none that could be waited for.
_LONGEST_STEP = 10.0


class Playlist:
    """What the connections to a live playlist know together: which pictures came already, and when the next is due.

    A connection begins some segments ahead of the newest one; where the playlist has stopped, these are old.
    Packets are told apart by their time and size.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._newest: tuple[int, int] | None = None
        self._again: set[int] = set()
        self._repeats = False
        self._last: float | None = None
        self._due = 0.0

    def begin(self) -> None:
        """Take the beginning of a connection."""
        self._repeats, self._last = self._newest is not None, None
        self._again.clear()

    def packet(self, pts: int, size: int) -> None:
        """Take a packet: its time in the stream's units, and its bytes."""
        if self._repeats and self._sizes.get(pts) == size:
            self._again.add(pts)
            # A film in a loop would repeat itself for ever.
            self._repeats = (pts, size) != self._newest
            return
        self._repeats, self._newest = False, (pts, size)
        self._again.discard(pts)
        self._sizes[pts] = size
        while len(self._sizes) > _REMEMBERED:
            del self._sizes[next(iter(self._sizes))]

    def came_already(self, pts: int) -> bool:
        """Whether an earlier connection gave the picture of this time."""
        return pts in self._again

    def early(self, seconds: float) -> float:
        """Return for how many seconds the next picture, at ``seconds`` of the stream, is to wait for its time.

        What comes late moves the times of all that follows, as in a player.
        """
        step = _LONGEST_STEP if self._last is None else seconds - self._last
        self._last = seconds
        paced = 0 <= step < _LONGEST_STEP
        now = time.monotonic()
        self._due = max(now, self._due + step) if paced else now
        return self._due - now
