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
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from streamfer.config import CaptionsConfig
from streamfer.errors import InternalError
from streamfer.geometry import CropProfile
from streamfer.models.expression import ModelInfo
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.events import Event, SourceDone
from streamfer.pipeline.keyframes import Keyframes, keyframes_of
from streamfer.records import ClipLabelled, Record

if TYPE_CHECKING:
    from streamfer.pipeline.session import ClipJob

#: Tracks whose last shown clip is remembered, over all sources; beyond, the longest silent are taken for new.
_TRACKS_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class UnitTrack:
    """The action units of one face in each picture of a clip that shows it.

    Shape suffixes: T pictures, D action units.
    """

    names: tuple[str, ...]  #: of the units, as the model names them (``AU12``)
    thresholds: tuple[float, ...]  #: intensity from which each counts as present; empty where the model states none
    seconds: tuple[float, ...]  #: time of each picture, in the clip's own time, ascending
    intensities_TD: NDArray[np.float32] = field(repr=False)  #: float32 (T, D), 0 to 1


@dataclass(frozen=True, slots=True)
class ObservedClip:
    """A labelled clip that is shown to the observer."""

    record: Record  #: the clip's label, which is delivered before
    #: its telling pictures; without a picture where none of the clip's was kept
    keyframes: Keyframes = field(repr=False)
    arrived: float  #: monotonic time at which the clip's last picture was decoded
    again: bool = False  #: its track was shown before, and its label has not changed since
    #: what the model read picture by picture; None where it reads no action units
    units: UnitTrack | None = field(default=None, repr=False)
    people: int = 1  #: tracks that show a face during the clip, this one included

    @property
    def label(self) -> ClipLabelled:
        return label_of(self.record)


def label_of(record: Record) -> ClipLabelled:
    """Return the document of a label's record; an InternalError where it is another record."""
    if not isinstance(record.data, ClipLabelled):
        raise InternalError(f"a clip was to be observed by its label, and came with a {record.type} record")
    return record.data


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run gives to its observer."""

    emit: Callable[[Event], None]  #: delivers an event to the run's consumer; may block
    stop: threading.Event  #: set when the run is to end soon
    clock: StageClock


class ClipObserver(Protocol):
    """Takes the chosen clips of a run, and passes the ends of sources on behind them."""

    def take(self, entry: ObservedClip | SourceDone) -> None:
        """Take the next clip, or the end of a source."""

    def close(self) -> None:
        """Come to an end: afterwards nothing is emitted any more."""


@dataclass(frozen=True, slots=True)
class ObserverPlan:
    """Which clips a run shows to its observer, and what of them."""

    crop: CropProfile | None  #: geometry of the pictures that are kept; None where the observer looks at none
    open: Callable[[RunContext], ClipObserver]  #: makes the observer of the run
    #: ``when`` and ``interval`` choose the clips, ``keyframes`` and ``max_faces`` their pictures
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)


class ClipChooser:
    """Decides which labelled clips are shown. State: label and time of each track's last shown clip."""

    def __init__(self, captions: CaptionsConfig, model: ModelInfo) -> None:
        self._captions = captions
        self._model = model
        self._last: OrderedDict[tuple[str, str, int, int], tuple[str | None, float]] = OrderedDict()

    def consider(self, clip: ClipJob, record: Record) -> ObservedClip | None:
        """Return what the observer is shown of a labelled clip, if anything."""
        again = self._again(record.subject, label_of(record))
        if again is None:
            return None
        keyframes = keyframes_of(clip, self._captions.keyframes)
        return ObservedClip(record, keyframes, clip.last.arrived, again, self._units(clip), clip.people)

    def _units(self, clip: ClipJob) -> UnitTrack | None:
        model = self._model
        if not model.action_units:
            return None
        # Of a head that is turned too far, a movement can be read no better than an expression.
        limit = model.abstention.min_pose or 0.0
        facing = [sighting for sighting in clip.sightings if sighting.face.pose >= limit] or clip.sightings
        seconds = tuple(sighting.frame.wall_time for sighting in facing)
        intensities_TD = np.array([sighting.actions for sighting in facing], np.float32)
        return UnitTrack(model.action_units, model.action_thresholds, seconds, intensities_TD)

    def _again(self, source_id: str, label: ClipLabelled) -> bool | None:
        """Return whether a clip is shown although nothing has changed for its track; None where it is not shown."""
        face, start = label.faces[0], label.clip.start_time
        key = (source_id, label.clip.epoch_key, label.clip.epoch, face.track)
        before = self._last.get(key)
        # A face that cannot be read for a while has not changed its expression.
        top = face.top or (before[0] if before else None)
        same = before is not None and before[0] == top
        if self._captions.when != "all" and same and before and start - before[1] < self._captions.interval:
            return None
        self._last[key] = (top, start)
        self._last.move_to_end(key)
        if len(self._last) > _TRACKS_REMEMBERED:
            self._last.popitem(last=False)
        return same
