"""Which analysed frames make a window, and how a track's gaps are filled.

Time is counted in *ticks*: tick k is the k-th analysed position of an epoch (k / fps seconds for time
sampling, the k-th segment of a whole clip). All tracks of a source share one grid of windows, so "clip 7"
means the same seconds for everybody in the picture.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from streamfer.config import ClipConfig, SamplingConfig
from streamfer.video.sampling import segment_centres


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """The windows of a source."""

    length: int  #: ticks a window spans
    stride: int  #: ticks between the starts of windows; 0 for a single window (a whole clip)
    frames: int  #: features the model reads (16 in DFER-CLIP)
    max_gap: int  #: most consecutive missing ticks that a neighbouring feature may stand in for
    min_real: float  #: least share, of the features a window could have, that the track must really have
    lead: int = 0  #: ticks by which the first window begins before there are frames

    @classmethod
    def of(cls, clip: ClipConfig, sampling: SamplingConfig, frames: int) -> WindowGrid:
        """Return the configured windows; a whole clip is one, of its segment centres, and bridges any gap."""
        if clip.mode == "whole":
            return cls(length=frames, stride=0, frames=frames, max_gap=frames, min_real=clip.min_real)
        return cls(
            length=max(1, round(clip.seconds * sampling.fps)),
            stride=max(1, round(clip.stride * sampling.fps)),
            frames=frames,
            max_gap=round(clip.max_gap * sampling.fps),
            min_real=clip.min_real,
        )

    def early(self) -> WindowGrid:
        """Return the grid with windows before its first that hold as many of the first frames as one needs at least."""
        return replace(self, lead=self.stride and int((1 - self.min_real) * self.length // self.stride) * self.stride)

    def start(self, number: int) -> int:
        """Return the first tick of window ``number``, negative where it begins before there are frames."""
        return number * self.stride - self.lead

    def end(self, number: int) -> int:
        """Return the tick after the last of window ``number``."""
        return self.start(number) + self.length

    def complete_through(self, tick: int) -> int:
        """Return how many windows, counted from 0, are complete once ``tick`` has been analysed."""
        beyond = tick + 1 - self.end(0)
        if beyond < 0:
            return 0
        return 1 if self.stride == 0 else beyond // self.stride + 1

    def begun_by(self, tick: int) -> int:
        """Return how many windows, counted from 0, begin at ``tick`` at the latest; one where there is one alone."""
        return (tick + self.lead) // self.stride + 1 if self.stride else 1


def fill_window(
    grid: WindowGrid,
    number: int,
    present: Iterable[int],
    analysed: Sequence[int],
    *,
    stop: int | None = None,
    lenient: bool = False,
) -> tuple[int, ...] | None:
    """Return the ticks whose features a track puts into the model's slots for a window; None where it is not labelled.

    A missing tick repeats the last present one before it (at the window's start, the first after it), as
    DFER-CLIP pads clips that are too short. A window with a hole of more than ``max_gap`` ticks is not labelled, nor
    one with less than ``min_real`` of what it could have held. A source slower than the ticks has no frame at many of
    them; that is no gap of the track, so what the track has is compared with what a face in every analysed frame would
    have given.

    Args:
        present: ticks at which the track has a feature; others than the window's may be among them.
        analysed: ticks that had a frame, ascending, reaching at least over the window.
        stop: tick after the last analysed one when the source ended inside the window; the window is then
            sampled like a shorter clip.
        lenient: accept any number of real features and any hole (the only window of a short track).
    """
    start = max(0, grid.start(number))
    stop = grid.end(number) if stop is None else min(grid.end(number), stop)
    have = sorted(tick for tick in present if start <= tick < stop)
    if not have:
        return None
    slots = [start + slot for slot in segment_centres(stop - start, grid.frames)]
    ticks = _stand_ins(have, slots)
    if lenient:
        return ticks
    hole = max(after - before - 1 for before, after in pairwise((start - 1, *have, stop)))
    # Ticks lie 1 apart unless the source is slower than they are: the median says.
    steps = sorted(after - before for before, after in pairwise(analysed)) or [1]
    step = steps[len(steps) // 2]
    offered = analysed[bisect_left(analysed, start) : bisect_left(analysed, stop)]
    # What is cut off may end with a picture whose predecessors had still to be sent: B frames follow what they precede.
    covered = min(stop - start, step * len(offered)) if stop < grid.end(number) else stop - start
    least = grid.min_real * len(set(_stand_ins(offered, slots)))
    if hole > max(grid.max_gap, 2 * step) or len(set(ticks)) < least or covered < grid.min_real * grid.length:
        return None
    return ticks


def _stand_ins(have: Sequence[int], slots: Sequence[int]) -> tuple[int, ...]:
    """Return, for each slot, the last tick of ``have`` not after it, else the first one."""
    return tuple(have[max(0, bisect_right(have, slot) - 1)] for slot in slots)
