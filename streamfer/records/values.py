"""What stands inside the documents: which stretch of which source, what the picture was like, what a face shows.

Numbers are rounded when a value is made, so what is in memory equals what was written: probabilities, boxes and
scores to 6 digits, times to microseconds, milliseconds to 3 digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

TimeOrigin = Literal["rtcp", "wallclock", "file", "pts_only"]
SourceState = Literal["connecting", "online", "stalled", "backoff", "auth_failed", "ended"]


def _round6(value: float) -> float:
    # Adding zero turns -0.0 into 0.0: the two compare equal but print differently.
    return round(value, 6) + 0.0


def _round3(value: float) -> float:
    return round(value, 3) + 0.0


def _unit(value: float) -> float:
    # Rounded first: a float32 softmax may give 1.0000001.
    rounded = _round6(value)
    if not 0.0 <= rounded <= 1.0:
        raise ValueError("must lie between 0 and 1")
    return rounded


Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, AfterValidator(_round6)]
Extent = Annotated[float, Field(ge=0), AfterValidator(_round6)]
UnitInterval = Annotated[float, AfterValidator(_unit), Field(json_schema_extra={"minimum": 0, "maximum": 1})]
SignedUnit = Annotated[float, Field(ge=-1, le=1), AfterValidator(_round6)]
Seconds = Annotated[float, AfterValidator(_round6)]
# A face that the border cuts reaches beyond its frame, and one that is followed for a while may leave it; pixels are
# never so few.
_Place = Annotated[float, Field(ge=-4, le=5), AfterValidator(_round6)]
_Size = Annotated[float, Field(ge=0, le=5), AfterValidator(_round6)]
#: x, y, width, height as fractions of the frame.
Box = tuple[_Place, _Place, _Size, _Size]
Milliseconds = Annotated[float, Field(ge=0), AfterValidator(_round3)]
Name = Annotated[str, Field(min_length=1)]
#: Seconds a unit, as numerator and denominator.
TimeBase = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
#: Why a face's expression is not named, the first that holds: too few pixels, turned away, out of focus, or no class
#: probable enough.
UnsureReason = Literal["small", "turned", "blurred", "uncertain", "withheld"]
#: What stands for the label of such a face wherever people read one.
UNSURE = "unsure"


def _open(schema: dict[str, Any]) -> None:
    # Readers of a version take what a later one adds.
    del schema["additionalProperties"]


class Value(BaseModel):
    """Base of everything inside a document: frozen, finite numbers, strict about names while writing."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), json_schema_extra=_open
    )


class ClipSpan(Value):
    """Which stretch of which source a record speaks of.

    Attributes:
        start_pts, end_pts: first and last analysed picture, in ``time_base`` units from the epoch's zero.
        time_base: seconds per pts unit as [numerator, denominator].
        epoch: counter of the source's clock restarts within one run of streamfer.
        epoch_key: identity of the epoch's clock across restarts (file sha256, or first wall time in ms).
        start_time, end_time: seconds; Unix time for ``rtcp`` and ``wallclock``, from the first frame otherwise.
        time_origin: what those two are measured by.
        frames_sampled: pictures the clip's window is made of.
        frames_real: how many of them truly showed the face; the others repeat their predecessor.
        frames_decoded: pictures decoded between start and end.
        frames_dropped: pictures not analysed, by cause.
        faces_too_small: people in these pictures whose faces were too small to be read; absent where there are none.
        media_start_time, media_end_time: the same two by a file's own clock; absent where there is none.
    """

    start_pts: int
    end_pts: int
    time_base: TimeBase
    epoch: Count
    epoch_key: Name
    start_time: Seconds
    end_time: Seconds
    time_origin: TimeOrigin
    frames_sampled: Count
    frames_real: Count
    frames_decoded: Count
    frames_dropped: Mapping[str, Count] = Field(default_factory=dict)
    faces_too_small: Annotated[int, Field(gt=0)] | None = None
    media_start_time: Seconds | None = None
    media_end_time: Seconds | None = None

    def moment(self, pts: int) -> float:
        """Time of one of its pictures, seconds as its own."""
        return self.start_time + (pts - self.start_pts) * self.time_base[0] / self.time_base[1]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end_pts < self.start_pts or self.end_time < self.start_time:
            raise ValueError("a clip must not end before it starts")
        if self.frames_real > self.frames_sampled:
            raise ValueError("frames_real must not exceed frames_sampled")
        return self


class Transform(Value):
    """One step from the decoded picture to the analysed one, so that boxes can be mapped back.

    Attributes:
        kind: for example ``rotate`` (degrees clockwise), ``scale`` (x, y factors), ``crop`` (x, y, w, h pixels).
        values: the step's numbers.
    """

    kind: Name
    values: tuple[Number, ...] = ()


class VideoFacts(Value):
    """What the source looked like: displayed size in pixels, codec, rates in frames a second."""

    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    codec: str
    declared_fps: Extent | None = None
    measured_fps: Extent | None = None
    transforms: tuple[Transform, ...] = ()


class FaceReading(Value):
    """One face track's expression over the clip.

    Attributes:
        track_id: name of the track, unique within source and epoch.
        track: the same as a number.
        box: [x, y, w, h] at the clip's end, as fractions of the displayed width and height; a face that the
            border cuts may reach beyond 0-1.
        det_score: the detector's confidence.
        emotions: label to probability, in the model's order of classes; empty where none are to be named.
        top: the most probable label; null where the face cannot be read or nothing is probable enough.
        reason: why ``top`` is null; absent otherwise. ``withheld``: expressions are not to be named.
        quality: how usable the crops were, 0-1.
        valence, arousal: -1 to 1, where the model gives them.
        action_units: facial action unit (``AU12``) to its mean intensity over the pictures that truly showed the
            face, where the model reads them: 0 (absent) to 1 on the scale of the model's training, which is not
            FACS's A to E.
        action_units_peak: the same units with their highest intensity in those pictures.
    """

    track_id: Name
    track: Count
    box: Box
    det_score: UnitInterval
    emotions: Mapping[str, UnitInterval]
    top: Name | None
    quality: UnitInterval
    valence: SignedUnit | None = None
    arousal: SignedUnit | None = None
    reason: UnsureReason | None = None
    action_units: Annotated[Mapping[str, UnitInterval], Field(min_length=1)] | None = None
    action_units_peak: Annotated[Mapping[str, UnitInterval], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _top_is_a_label(self) -> Self:
        if self.top is not None and self.top not in self.emotions:
            raise ValueError(f"top label {self.top!r} is not among the emotions")
        if (self.top is None) != (self.reason is not None):
            raise ValueError("top is null exactly where a reason says why")
        return self

    @model_serializer(mode="wrap")
    def _with_top(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Null fields are left out of documents, but readers look for this one.
        fields = write(self)
        return fields if self.top is not None else {**fields, "top": None}

    @property
    def label(self) -> str:
        """What the face is called: its most probable class, ``unsure``, or ``withheld``."""
        if self.top is None:
            return self.reason if self.reason == "withheld" else UNSURE
        return self.top

    @property
    def probability(self) -> float:
        """Probability of the most probable class, whether or not it was believed."""
        return max(self.emotions.values(), default=0.0) if self.top is None else self.emotions[self.top]

    @model_validator(mode="after")
    def _every_mean_has_a_peak(self) -> Self:
        if (self.action_units or {}).keys() != (self.action_units_peak or {}).keys():
            raise ValueError("action_units and action_units_peak must name the same units")
        return self


class FaceMark(Value):
    """One face in one frame.

    Attributes:
        track_id, track, box, quality: as in :class:`FaceReading`.
        score: the detector's confidence.
        landmarks: eyes, tip of the nose and corners of the mouth, those on the picture's left first, each [x, y] as
            fractions of the frame; absent where the detector finds none.
        action_units: unit to intensity in this frame; absent where the model reads none, or the frame was not encoded.
    """

    track_id: Name
    track: Count
    box: Box
    score: UnitInterval
    quality: UnitInterval
    landmarks: tuple[tuple[Number, Number], ...] | None = None
    action_units: Annotated[Mapping[str, UnitInterval], Field(min_length=1)] | None = None


class FrameMarks(Value):
    """The faces of one analysed frame.

    Attributes:
        index: number of the frame among the decoded ones of its epoch.
        seconds: time from the epoch's first frame.
        wall_time: Unix time of its capture; absent for files.
    """

    index: Count
    seconds: Seconds
    wall_time: Seconds | None = None
    faces: tuple[FaceMark, ...] = ()


class ModelFacts(Value):
    """Which model spoke: registry name, sha256 of its weights (hex), head version, precision, face detector."""

    name: Name
    digest: Name
    head_version: str
    precision: str
    detector: str | None = None


class Producer(Value):
    """Which streamfer wrote the record: version, host name, id of the run; and what for, where that was set."""

    version: str
    host: str
    run_id: str
    purpose: str | None = None


class Latency(Value):
    """Milliseconds from the clip's last picture: in decoding, in queues, in the model, and altogether.

    Attributes:
        lag: from that picture's capture by its wall time, so the network's delay included; absent for files.
    """

    decode: Milliseconds
    queue: Milliseconds
    infer: Milliseconds
    total: Milliseconds
    lag: Milliseconds | None = None


def is_wall_time(origin: TimeOrigin, seconds: float) -> bool:
    """Whether ``seconds`` is a Unix time that a calendar can hold."""
    return origin in ("rtcp", "wallclock") and math.isfinite(seconds) and 0 <= seconds < 253402300800
