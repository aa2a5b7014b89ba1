"""What travels from the analysis of a source to the model's thread, in order for each source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamfer.errors import StreamferError
from streamfer.faces.detections import TrackedFace
from streamfer.records.values import TimeOrigin
from streamfer.video.frames import Source, StateChange, VideoInfo

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What is kept of an analysed frame when its pixels are gone."""

    width: int  #: and height: of this frame, pixels
    height: int
    index: int  #: like pts and the times as in :class:`~streamfer.video.frames.Frame`
    pts: int
    seconds: float
    wall_time: float
    #: frames of the source lost before this one, on their way or because the analysis was busy, by cause
    dropped: Mapping[str, int]
    decode_s: float  #: seconds of decoding since the frame chosen before
    arrived: float  #: monotonic time at which the frame was decoded
    detect_s: float  #: seconds of detection and tracking
    media_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class AnalysedFrame:
    """One frame's faces on their way to the encoder."""

    source_id: str
    epoch: int
    tick: int | None  #: place in the windows; None when the frame only helped tracking
    facts: FrameFacts
    faces: tuple[TrackedFace, ...]  #: those that are read, not all of them sure to be a person's
    too_small: tuple[TrackedFace, ...]  #: faces below the least size, which are followed and not read
    renamed: tuple[tuple[int, int], ...]  #: as in :class:`~streamfer.faces.detections.TrackedFrame`
    #: uint8 RGB (F, S, S, 3), one for each of ``faces``, a tensor if cut on the GPU; none where ``tick`` is None
    crops: NDArray[np.uint8] | torch.Tensor = field(repr=False)
    #: one for each of ``crops``, uint8 RGB (P, P, 3) as an observer of clips wants it; None where it is not kept
    portraits: tuple[NDArray[np.uint8] | None, ...] = field(repr=False)
    left_out: int = 0  #: faces beyond the detector's cap


@dataclass(frozen=True, slots=True)
class EpochOpened:
    """The first chosen frame of an epoch is about to follow."""

    source_id: str
    epoch: int
    info: VideoInfo
    time_base: Fraction  #: and time_origin: of this epoch's frames
    time_origin: TimeOrigin


@dataclass(frozen=True, slots=True)
class Changed:
    """A source changed its state."""

    source_id: str
    change: StateChange


@dataclass(frozen=True, slots=True)
class Ended:
    """The last item of a source."""

    source_id: str
    error: StreamferError | None
    stopped: bool
    frames_decoded: int
    frames_dropped: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """From now on ``source``, or nothing, is what bears an id."""

    source_id: str
    source: Source | None


Item = AnalysedFrame | EpochOpened | Changed | Ended | Replaced
