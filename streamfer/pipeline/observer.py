"""The seam on which captions hang: who watches a run's labelled clips, and which clips it is shown.

The model's thread decides about a clip right after its label, takes keyframes out of the track's pictures, and hands
an :class:`ObservedClip` to the run's :class:`ClipObserver` behind the label's record. What the observer makes of it is
none of the model's concern: one writes captions, another collects keyframes for ``streamfer ask``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from streamfer.config import CaptionsConfig
from streamfer.errors import InternalError
from streamfer.geometry import CropProfile
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.events import Event, SourceDone
from streamfer.pipeline.keyframes import Keyframes, keyframes_of
from streamfer.pipeline.session import ClipJob
from streamfer.records import ClipLabelled, Record

#: Tracks whose last shown clip is remembered, over all sources; beyond, the longest silent are taken for new.
_TRACKS_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class ObservedClip:
    """A labelled clip that is shown to the observer.

    Attributes:
        record: the clip's label, which is delivered before.
        keyframes: its telling pictures; without a picture where none of the clip's was kept.
        arrived: monotonic time at which the clip's last picture was decoded.
    """

    record: Record
    keyframes: Keyframes = field(repr=False)
    arrived: float

    @property
    def label(self) -> ClipLabelled:
        """The document of the label."""
        return label_of(self.record)


def label_of(record: Record) -> ClipLabelled:
    """Return the document of a label's record.

    Raises:
        InternalError: it is another record.
    """
    if not isinstance(record.data, ClipLabelled):
        raise InternalError(f"a clip was to be observed by its label, and came with a {record.type} record")
    return record.data


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run gives to its observer.

    Attributes:
        emit: delivers an event to the run's consumer; may block.
        stop: set when the run is to end soon.
        clock: where time is counted.
    """

    emit: Callable[[Event], None]
    stop: threading.Event
    clock: StageClock


class ClipObserver(Protocol):
    """Takes the chosen clips of a run, and passes the ends of sources on behind them."""

    def take(self, entry: ObservedClip | SourceDone) -> None:
        """Take the next clip, or the end of a source."""

    def close(self) -> None:
        """Come to an end: afterwards nothing is emitted any more."""


@dataclass(frozen=True, slots=True)
class ObserverPlan:
    """Which clips a run shows to its observer, and what of them.

    Attributes:
        crop: geometry of the pictures that are kept.
        open: makes the observer of the run.
        captions: ``when`` and ``interval`` choose the clips, ``keyframes`` and ``max_faces`` their pictures.
    """

    crop: CropProfile
    open: Callable[[RunContext], ClipObserver]
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)


class ClipChooser:
    """Decides which labelled clips are shown. State: label and time of each track's last shown clip."""

    def __init__(self, captions: CaptionsConfig) -> None:
        self._captions = captions
        self._last: OrderedDict[tuple[str, str, int, int], tuple[str, float]] = OrderedDict()

    def consider(self, clip: ClipJob, record: Record) -> ObservedClip | None:
        """Return what the observer is shown of a labelled clip, if anything.

        Args:
            clip: the classified window.
            record: its label.
        """
        if not self._worth(record.subject, label_of(record)):
            return None
        return ObservedClip(record, keyframes_of(clip, self._captions.keyframes), clip.last.arrived)

    def _worth(self, source_id: str, label: ClipLabelled) -> bool:
        if self._captions.when == "all":
            return True
        face, start = label.faces[0], label.clip.start_time
        key = (source_id, label.clip.epoch_key, label.clip.epoch, face.track)
        before = self._last.get(key)
        if before is not None and before[0] == face.top and start - before[1] < self._captions.interval:
            return False
        self._last[key] = (face.top, start)
        self._last.move_to_end(key)
        if len(self._last) > _TRACKS_REMEMBERED:
            self._last.popitem(last=False)
        return True
