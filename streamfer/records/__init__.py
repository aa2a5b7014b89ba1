"""What leaves the system: versioned records, their JSON Schemas and deterministic ids."""

from __future__ import annotations

from streamfer.records.documents import (
    DOCUMENTS,
    UNSURE,
    AnyDocument,
    ClipCaptioned,
    ClipLabelled,
    ClipSpan,
    FaceReading,
    Gap,
    Latency,
    ModelFacts,
    Producer,
    SourceState,
    SourceStateChanged,
    TimeOrigin,
    Transform,
    UnsureReason,
    VideoFacts,
    read_document,
)
from streamfer.records.envelope import Record, document_id
from streamfer.records.identity import SCHEMA_MAJOR, caption_id, clip_id, gap_id, state_id

__all__ = [
    "DOCUMENTS",
    "SCHEMA_MAJOR",
    "UNSURE",
    "AnyDocument",
    "ClipCaptioned",
    "ClipLabelled",
    "ClipSpan",
    "FaceReading",
    "Gap",
    "Latency",
    "ModelFacts",
    "Producer",
    "Record",
    "SourceState",
    "SourceStateChanged",
    "TimeOrigin",
    "Transform",
    "UnsureReason",
    "VideoFacts",
    "caption_id",
    "clip_id",
    "document_id",
    "gap_id",
    "read_document",
    "state_id",
]
