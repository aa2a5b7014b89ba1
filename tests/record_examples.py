"""Example documents and records that tests of several rooms build on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import streamfer
from streamfer.records import (
    AnyDocument,
    ClipCaptioned,
    ClipLabelled,
    ClipSpan,
    FaceMark,
    FaceReading,
    FrameMarks,
    FramesAnalysed,
    Gap,
    Latency,
    ModelFacts,
    Producer,
    Record,
    SourceStateChanged,
    Transform,
    VideoFacts,
)

#: The checked-in JSON Schemas.
SCHEMAS = Path(streamfer.__file__).parent / "schemas"
RECORDED = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
MODEL = ModelFacts(name="mini", digest="ab" * 32, head_version="1", precision="fp32", detector="lbp")
PRODUCER = Producer(version="0.1.0", host="camera-room", run_id="r1")
LATENCY = Latency(decode=1.23456, queue=2, infer=30.5, total=33.7)


def span(**changes: Any) -> ClipSpan:
    values: dict[str, Any] = {
        "start_pts": 0,
        "end_pts": 1875,
        "time_base": (1, 1000),
        "epoch": 0,
        "epoch_key": "1772600765000",
        "start_time": 1772600765.0,
        "end_time": 1772600766.875,
        "time_origin": "wallclock",
        "frames_sampled": 16,
        "frames_real": 15,
        "frames_decoded": 57,
        "frames_dropped": {"queue_full": 2},
    }
    return ClipSpan(**{**values, **changes})


def labelled(clip: ClipSpan | None = None, **face: Any) -> ClipLabelled:
    reading: dict[str, Any] = {
        "track_id": "0-3",
        "track": 3,
        "box": (0.25, 0.1234567, 0.2, 0.3),
        "det_score": 0.98,
        "emotions": {"happiness": 0.7, "neutral": 1 / 3},
        "top": "happiness",
        "quality": 0.5,
    }
    return ClipLabelled(
        clip=clip or span(),
        video=VideoFacts(
            width=640,
            height=360,
            codec="h264",
            declared_fps=30,
            measured_fps=29.97,
            transforms=(Transform(kind="rotate", values=(90,)),),
        ),
        faces=(FaceReading(**{**reading, **face}),),
        model=MODEL,
        producer=PRODUCER,
        latency_ms=LATENCY,
    )


def captioned(label: Record, text: str) -> Record:
    """A caption of a labelled clip."""
    face = label.data.faces[0]  # type: ignore[union-attr]
    document = ClipCaptioned(
        clip_id=label.id, clip=label.data.clip, track_id=face.track_id, track=face.track, text=text,  # type: ignore[union-attr]
        model=MODEL, producer=PRODUCER, latency_ms=LATENCY,
    )  # fmt: skip
    return Record.of(document, source_id=label.subject)


def mark() -> FaceMark:
    return FaceMark(
        track_id="0-3",
        track=3,
        box=(0.25, 0.1234567, 0.2, 0.3),
        score=0.98,
        quality=0.75,
        landmarks=((0.3, 0.2), (0.4, 0.2), (0.35, 0.3), (0.31, 0.36), (0.39, 0.36)),
        action_units={"AU06": 0.4567891, "AU12": 0.5},
    )


def labelled_with_units() -> Record:
    """A clip of a model that reads action units."""
    document = labelled(
        action_units={"AU06": 0.4567891, "AU12": 0.5}, action_units_peak={"AU06": 0.875, "AU12": 1.00000001}
    )
    return Record.of(document, source_id="hall", recordedtime=RECORDED).numbered(7)


def examples() -> dict[str, Record]:
    clip = Record.of(labelled(), source_id="hall", recordedtime=RECORDED).numbered(7)
    documents: tuple[AnyDocument, ...] = (
        ClipCaptioned(
            clip_id=clip.id,
            clip=span(),
            track_id="0-3",
            track=3,
            text="Die Lippen öffnen sich: ein Lächeln.",
            keyframes_pts=(0, 937),
            model=MODEL,
            producer=PRODUCER,
            latency_ms=LATENCY,
        ),
        SourceStateChanged(
            state="backoff",
            epoch=1,
            wall_time=1772600768.25,
            reason="rtsp://***@camera/live: connection refused",
            attempt=2,
            delay=1.5,
            producer=PRODUCER,
        ),
        Gap(
            cause="queue_full",
            unit="frames",
            count=2,
            epoch=0,
            epoch_key="f" * 64,
            start_time=1.0,
            end_time=1.25,
            time_origin="file",
            reason="the encoder could not keep up",
            producer=PRODUCER,
        ),
        FramesAnalysed(
            epoch=0,
            epoch_key="1772600765000",
            frames=(
                FrameMarks(index=25, seconds=1.0, wall_time=1772600766.0, faces=(mark(),)),
                FrameMarks(index=28, seconds=1.12, wall_time=1772600766.12),
            ),
            producer=PRODUCER,
        ),
    )
    others = [Record.of(data, source_id="hall", recordedtime=RECORDED).numbered(8) for data in documents]
    return {record.data.kind: record for record in (clip, *others)}


def load_schema(kind: str) -> dict[str, Any]:
    """Read the schema of a kind, such as ``clip.labelled.v1``."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{kind}.json").read_text(encoding="utf-8"))
    return schema
