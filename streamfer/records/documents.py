"""The JSON documents that leave streamfer: what stands in a record's ``data``.

Every document is a frozen pydantic model. Writing is strict (an unknown field is a defect of the writer);
reading (:func:`read_document`) ignores unknown fields, so that a field added inside ``v1`` disturbs no older
reader.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from streamfer.errors import RecordError
from streamfer.records.identity import identify, microseconds
from streamfer.records.values import (
    ClipSpan,
    Count,
    Extent,
    FaceReading,
    FrameMarks,
    Latency,
    ModelFacts,
    Name,
    Producer,
    Seconds,
    SourceState,
    TimeBase,
    TimeOrigin,
    Value,
    VideoFacts,
    is_wall_time,
)


class Document(Value):
    """Base of the documents; ``kind`` is the record type without prefix, with the schema's major version."""

    kind: ClassVar[str]

    def to_json(self) -> str:
        """One line of JSON without null fields."""
        return self.model_dump_json(exclude_none=True)

    @abstractmethod
    def identity(self, source_id: str) -> str:
        """Deterministic id of what this says of a source: equal fields, equal ids, in every run."""

    @abstractmethod
    def end(self) -> tuple[TimeOrigin, float]:
        """What its last moment is measured by, and that moment in seconds."""

    @property
    def captured(self) -> datetime | None:
        """Capture time of its last moment; None where the source has no wall time."""
        origin, seconds = self.end()
        return datetime.fromtimestamp(seconds, UTC) if is_wall_time(origin, seconds) else None


class ClipLabelled(Document):
    """A clip's expressions. streamfer writes one record a clip and track, so ``faces`` holds one reading."""

    kind: ClassVar[str] = "clip.labelled.v1"

    clip: ClipSpan
    video: VideoFacts
    faces: Annotated[tuple[FaceReading, ...], Field(min_length=1)]
    model: ModelFacts
    producer: Producer
    latency_ms: Latency

    def identity(self, source_id: str) -> str:
        """One for each clip, track and model; ``epoch_key`` survives a restart, so a replay gives the same."""
        clip, base = self.clip, Fraction(*self.clip.time_base)
        place = (clip.epoch_key, clip.epoch, clip.start_pts, clip.end_pts, base.numerator, base.denominator)
        return identify("clip.labelled", source_id, *place, self.faces[0].track, self.model.digest)

    def end(self) -> tuple[TimeOrigin, float]:
        return self.clip.time_origin, self.clip.end_time


class ClipCaptioned(Document):
    """A clip's description; follows the label's record and names it.

    Attributes:
        clip_id: ``ce_id`` of the clip's ``clip.labelled`` record.
        clip, track_id, track: as in that record.
        text: the caption or answer.
        question: what was asked, where the text answers a question.
        keyframes_pts: pictures that were described, in the clip's ``time_base``.
        generated: the text was made by a machine; always true.
        writer: whose words they are: ``measured`` for measured words, else the model's name.
        replaced: why the model's own text was replaced by measured words, where it was.
        measured: what was known of the clip: label with confidence, action units with their peak and their onset,
            apex and offset in seconds, people in view, share of the clip that shows the face.
    """

    kind: ClassVar[str] = "clip.captioned.v1"

    clip_id: Name
    clip: ClipSpan
    track_id: Name
    track: Count
    text: str
    question: str | None = None
    keyframes_pts: tuple[int, ...] = ()
    generated: Literal[True] | None = None
    writer: str | None = None
    replaced: str | None = None
    measured: Mapping[str, Any] | None = None
    model: ModelFacts
    producer: Producer
    latency_ms: Latency

    def identity(self, source_id: str) -> str:
        """One for each clip, captioner and question; the clip's id holds the source."""
        del source_id
        return identify("clip.captioned", self.clip_id, self.model.digest, self.question)

    def end(self) -> tuple[TimeOrigin, float]:
        return self.clip.time_origin, self.clip.end_time


class SourceStateChanged(Document):
    """A source changed its state.

    Attributes:
        state: the new state.
        epoch: epoch the source is in, or will be in after the reconnect.
        wall_time: Unix time of the change, seconds.
        reason: one line, credentials removed.
        attempt: number of the reconnect attempt, 0 when online.
        delay: seconds until the next attempt.
        epoch_key: identity of the epoch's clock, once it is known.
    """

    kind: ClassVar[str] = "source.state.v1"

    state: SourceState
    epoch: Count
    wall_time: Seconds
    reason: str = ""
    attempt: Count = 0
    delay: Extent = 0.0
    epoch_key: str | None = None
    producer: Producer

    def identity(self, source_id: str) -> str:
        """One for each change of a source."""
        moment = microseconds(self.wall_time)
        return identify("source.state", source_id, self.epoch, self.state, self.attempt, moment)

    def end(self) -> tuple[TimeOrigin, float]:
        return "wallclock", self.wall_time


class Gap(Document):
    """What was not analysed, and why.

    Attributes:
        cause: a short word, for example ``queue_full``, ``too_old``, ``decode_error``, ``reconnect``,
            ``suspended``, ``clock_jump``, ``face_lost``, ``spool_full``.
        unit, count: how many of what are missing; 0 where nobody could count.
        reason: one line for people, credentials removed.
        start_time, end_time, time_origin: as in :class:`ClipSpan`.
        start_pts, end_pts: in ``time_base`` units, where known.
        media_start_time, media_end_time: the stretch by a file's own clock; absent where there is none.
    """

    kind: ClassVar[str] = "gap.v1"

    cause: Name
    unit: Literal["frames", "clips", "captions", "records"]
    count: Count
    epoch: Count
    epoch_key: Name
    start_time: Seconds
    end_time: Seconds
    time_origin: TimeOrigin
    reason: str = ""
    start_pts: int | None = None
    end_pts: int | None = None
    time_base: TimeBase | None = None
    media_start_time: Seconds | None = None
    media_end_time: Seconds | None = None
    producer: Producer

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end_time < self.start_time:
            raise ValueError("a gap must not end before it starts")
        return self

    def identity(self, source_id: str) -> str:
        """One for each stretch of a source and cause."""
        stretch = (microseconds(self.start_time), microseconds(self.end_time))
        return identify("gap", source_id, self.epoch_key, self.epoch, self.cause, *stretch)

    def end(self) -> tuple[TimeOrigin, float]:
        return self.time_origin, self.end_time


class FramesAnalysed(Document):
    """The faces of the frames that were analysed within one second of an epoch."""

    kind: ClassVar[str] = "frames.analysed.v1"

    epoch: Count
    epoch_key: Name
    frames: Annotated[tuple[FrameMarks, ...], Field(min_length=1)]
    producer: Producer

    def identity(self, source_id: str) -> str:
        """One for each second and what was found in it; another model finds other action units."""
        found = self.model_dump_json(include={"frames"}, exclude_none=True)
        return identify("frames.analysed", source_id, self.epoch_key, self.epoch, found)

    def end(self) -> tuple[TimeOrigin, float]:
        """When its last frame was captured."""
        last = self.frames[-1]
        return ("file", last.seconds) if last.wall_time is None else ("wallclock", last.wall_time)


@dataclass(frozen=True, slots=True)
class RawDocument:
    """A document of a kind, or of a version, that this streamfer does not know, as it came."""

    kind: str  #: as in the record's type, such as ``clip.labelled.v2``
    text: str  #: its JSON

    @property
    def fields(self) -> Any:
        """What the JSON says."""
        return json.loads(self.text)

    def to_json(self) -> str:
        """One line of JSON."""
        return self.text


AnyDocument = ClipLabelled | ClipCaptioned | SourceStateChanged | Gap | FramesAnalysed
DOCUMENTS: tuple[type[AnyDocument], ...] = (ClipLabelled, ClipCaptioned, SourceStateChanged, Gap, FramesAnalysed)
_BY_KIND = {document.kind: document for document in DOCUMENTS}


def read_document(kind: str, text: str) -> AnyDocument | RawDocument:
    """Parse one JSON document of ``kind`` (such as ``clip.labelled.v1``), ignoring fields it does not know.

    A document of an unknown kind comes back as it is.

    Raises:
        RecordError: the text is not such a document.
    """
    model = _BY_KIND.get(kind)
    if model is None:
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"malformed {kind} record: not JSON: {error}") from error
        return RawDocument(kind, text)
    try:
        return model.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise RecordError(f"malformed {kind} record: {where}: {first['msg']}") from error
