"""The value types that leave the video room: frames, what a source is, and changes of its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamfer.records.values import SourceState, TimeOrigin

if TYPE_CHECKING:
    import torch

FrameFilter = Callable[[int, float, int], bool]
"""Called once for each decoded frame, in order, with (epoch, seconds, index); False: the frame is not yielded.

Refusing a frame before its conversion to RGB saves most of the work of a frame that nobody looks at.
"""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a source once it is open."""

    source_id: str  #: stable name of the source; never a URL with credentials
    location: str  #: where it is read from, credentials removed
    width: int  #: and height: displayed size in pixels, after rotation
    height: int
    codec: str
    declared_fps: float | None  #: the container's rate, or None where it states none
    duration: float | None  #: seconds, or None where unknown (live, GIF, raw streams)
    rotation: int  #: degrees clockwise that were applied to display the frames upright
    live: bool
    #: identity of this run of the source's clock that survives a restart of streamfer: the file's sha256 (hex) for
    #: files, the first frame's wall time in milliseconds for live sources
    epoch_key: str
    still: bool = False  #: a picture rather than a video


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture."""

    image: NDArray[np.uint8] = field(repr=False)  #: uint8 RGB, (H, W, 3), C-contiguous, upright (rotation applied)
    pts: int  #: presentation time in ``time_base`` units, measured from the epoch's own zero
    time_base: Fraction  #: seconds per pts unit
    epoch: int  #: counter that rises when the source's clock restarts (reconnect, a jump back or far ahead)
    wall_time: float  #: seconds; Unix time for ``rtcp`` and ``wallclock``, seconds from the first frame otherwise
    time_origin: TimeOrigin  #: what ``wall_time`` is measured by
    index: int  #: number of this frame among the decoded frames of its epoch, from 0
    #: the container's own time of it, by which players show and transcripts count; None where there is none (live
    #: sources, frames of one's own)
    media_seconds: float | None = None
    #: pictures of a live source that never came whole before this one, by cause
    lost: Mapping[str, int] = field(default_factory=dict)
    #: the same picture on the GPU that decoded it; None where the CPU did
    surface: torch.Tensor | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """Seconds from the first frame of the epoch (pts x time_base)."""
        return float(self.pts * self.time_base)


@dataclass(frozen=True, slots=True)
class Leap:
    """A stretch that a source's clock passed over, just before the first frame of an epoch."""

    pts: int  #: and time_base: its length; 0 where it was this machine's clock that was set
    time_base: Fraction
    wall_time: float  #: and time_origin: of that first frame, as in :class:`Frame`
    time_origin: TimeOrigin


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a file whose pictures are lost or partly made up, and so are not yielded."""

    epoch: int
    pictures: int  #: how many of them are known of
    #: begin and end: where the last whole picture ends and the next one begins, seconds as ``wall_time`` of files
    begin: float
    end: float
    media_begin: float  #: and media_end: the same by the file's own clock
    media_end: float


@dataclass(frozen=True, slots=True)
class StateChange:
    """A source changed its state; travels in the same iterator as the frames, in order."""

    state: SourceState
    epoch: int  #: epoch the source is in, or will be in after the reconnect
    wall_time: float  #: Unix time of the change, seconds
    reason: str = ""  #: one line, credentials removed; empty when there is nothing to say
    attempt: int = 0  #: number of the reconnect attempt, 0 when online
    delay: float = 0.0  #: seconds until the next attempt (``backoff`` only)
    #: what the source is, once it is (again) open: width and height may differ after a reconnect
    info: VideoInfo | None = None
    leap: Leap | None = None  #: what the source's clock passed over before the epoch that begins, if it leapt ahead
    damage: Damage | None = None  #: a stretch that is over, behind which the source goes on; nothing else has changed
    cut_off: bool = False  #: the source ended before everything came that it promises; the reason says how


@runtime_checkable
class Source(Protocol):
    """A place that frames come from.

    It opens its container only while it is iterated, and each call of :meth:`stream` starts again.
    """

    @property
    def source_id(self) -> str:
        """Stable name, used as ``ce_subject`` and in every metric."""

    @property
    def live(self) -> bool:
        """Whether frames arrive in real time (and may be dropped to keep up); settled once ``online`` was yielded."""

    @property
    def frames_decoded(self) -> int:
        """Frames decoded since the last call of :meth:`stream`, those refused by its filter included."""

    def close(self) -> None:
        """End the iteration soon, with ``ended``, and for good; may be called from another thread."""

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        """Yield ``StateChange(online)`` first, then frames in presentation order, and ``ended`` last.

        Live sources yield ``connecting`` before ``online``; ``online`` comes again, with its ``info``, whenever an
        epoch begins, before its frames are offered to ``wanted``. Only frames that ``wanted`` accepts are converted
        and yielded; ``Frame.index`` counts the refused ones too.

        Raises:
            SourceError: the source cannot be read at all (files at once; live sources never for a fault
                that may pass: they yield ``backoff`` and try again).
        """
