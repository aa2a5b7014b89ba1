"""Which labelled clips are described, and what the description's record says.

The model's thread decides about a clip right after its label, takes its keyframes out of the track's pictures, and
hands a :class:`CaptionJob` to a :class:`ClipObserver` behind the label's record. What takes it is none of the model's
concern: :mod:`streamfer.captions.worker` writes captions, ``streamfer ask`` collects keyframes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from streamfer.captions.context import ClipContext
from streamfer.captions.protocol import Caption, CaptionerInfo
from streamfer.errors import ConfigError, InternalError
from streamfer.geometry import CropProfile
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.events import Event, SourceDone
from streamfer.pipeline.keyframes import Keyframes, keyframes_of
from streamfer.pipeline.session import ClipJob
from streamfer.records import ClipCaptioned, ClipLabelled, Latency, ModelFacts, Record

CaptionWhen = Literal["changes", "all"]
#: Version of what lies between keyframes and text; rises when the same weights would be shown something else.
CAPTION_HEAD_VERSION = "1"
#: Tracks whose last description is remembered, over all sources; beyond, the longest silent are taken for new.
_TRACKS_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class CaptionJob:
    """A clip that deserves a description.

    Attributes:
        record: the clip's label, which is delivered before.
        keyframes: what a captioner is shown; without a picture where none of the clip's was kept.
        arrived: monotonic time at which the clip's last picture was decoded.
    """

    record: Record
    keyframes: Keyframes = field(repr=False)
    arrived: float

    @property
    def label(self) -> ClipLabelled:
        """The document of the label."""
        return label_of(self.record)

    @property
    def context(self) -> ClipContext:
        """What the label track knows of the clip besides its pictures."""
        frames = self.keyframes
        return ClipContext(frames.apex, frames.onset, frames.offset, self.label.faces[0].top)


def label_of(record: Record) -> ClipLabelled:
    """Return the document of a label's record.

    Raises:
        InternalError: it is another record.
    """
    if not isinstance(record.data, ClipLabelled):
        raise InternalError(f"a caption was asked for a {record.type} record")
    return record.data


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run gives to who describes its clips.

    Attributes:
        emit: delivers an event to the run's consumer; may block.
        stop: set when the run is to end soon.
        clock: where time is counted.
    """

    emit: Callable[[Event], None]
    stop: threading.Event
    clock: StageClock


class ClipObserver(Protocol):
    """Takes the clips of a run that are worth words, and passes the ends of sources on behind them."""

    def take(self, entry: CaptionJob | SourceDone) -> None:
        """Take the next clip, or the end of a source."""

    def close(self) -> None:
        """Come to an end: afterwards nothing is emitted any more."""


@dataclass(frozen=True, slots=True)
class CaptionPlan:
    """How a run describes clips.

    Attributes:
        crop: geometry of the pictures that are kept.
        when: ``changes``: new tracks, changed labels, and every ``interval``; ``all``: every clip.
        interval: video seconds after which a track is described again though nothing changed.
        keyframes: most pictures of a clip, 1 to 3.
        faces: most faces of a frame whose pictures are kept.
        open: makes what takes the clips of a run.
    """

    crop: CropProfile
    open: Callable[[RunContext], ClipObserver]
    when: CaptionWhen = "changes"
    interval: float = 10.0
    keyframes: int = 2
    faces: int = 8


class CaptionChooser:
    """Decides which labelled clips are described. State: label and time of each track's last description."""

    def __init__(self, plan: CaptionPlan) -> None:
        self._plan = plan
        self._last: OrderedDict[tuple[str, str, int, int], tuple[str, float]] = OrderedDict()

    def consider(self, clip: ClipJob, record: Record) -> CaptionJob | None:
        """Return the work that a labelled clip makes, if any.

        Args:
            clip: the classified window.
            record: its label.
        """
        if not self._worth(record.subject, label_of(record)):
            return None
        return CaptionJob(record, keyframes_of(clip, self._plan.keyframes), clip.last.arrived)

    def _worth(self, source_id: str, label: ClipLabelled) -> bool:
        if self._plan.when == "all":
            return True
        face, start = label.faces[0], label.clip.start_time
        key = (source_id, label.clip.epoch_key, label.clip.epoch, face.track)
        before = self._last.get(key)
        if before is not None and before[0] == face.top and start - before[1] < self._plan.interval:
            return False
        self._last[key] = (face.top, start)
        self._last.move_to_end(key)
        if len(self._last) > _TRACKS_REMEMBERED:
            self._last.popitem(last=False)
        return True


def caption_record(job: CaptionJob, caption: Caption, model: CaptionerInfo, infer_s: float) -> Record:
    """Return the record of a description, naming the clip's id.

    Args:
        job: the clip.
        caption: what was written.
        model: who wrote it.
        infer_s: seconds that the captioner took for the clip's batch.
    """
    label, face = job.label, job.label.faces[0]
    total = time.perf_counter() - job.arrived
    infer = min(infer_s, total)
    decode = label.latency_ms.decode
    document = ClipCaptioned(
        clip_id=job.record.id,
        clip=label.clip,
        track_id=face.track_id,
        track=face.track,
        text=caption.text,
        keyframes_pts=job.keyframes.pts,
        model=ModelFacts(
            name=model.name,
            digest=model.digest,
            head_version=CAPTION_HEAD_VERSION,
            precision=model.precision,
            detector=label.model.detector,
        ),
        producer=label.producer,
        latency_ms=Latency(decode=decode, queue=max(0.0, total - infer) * 1000, infer=infer * 1000, total=total * 1000),
    )
    site = job.record.source.removeprefix("/streamfer/")
    return Record.of(document, source_id=job.record.subject, site=site, traceparent=job.record.traceparent)


def choose_captioner(name: str | None) -> str:
    """Return the captioner that a name stands for: without one (or with ``auto``) the built-in, else the only one.

    Nothing is loaded yet, so what a name cannot be is said before the seconds that loading takes.

    Raises:
        ConfigError: no name was given, and there is no captioner or more than one to choose from.
        UnknownModelError: a plain name that no captioner has.
    """
    from streamfer.captions import registry

    if name and name != "auto":
        if "/" not in name and not Path(name).is_dir():
            registry.find_captioner(name)
        return name
    entries = registry.list_captioners()
    if (built_in := registry.built_in_captioner(entries)) is not None:
        return built_in
    if len(entries) == 1:
        return entries[0].name
    if entries:
        names = ", ".join(entry.name for entry in entries)
        raise ConfigError(f"several captioners are here ({names}); name one of them")
    raise ConfigError(
        "no captioner is installed; add one with: streamfer models import CHECKPOINT --name NAME --language-model "
        "FOLDER, or name the folder of an image-text model"
    )
