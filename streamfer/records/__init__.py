"""What leaves the system: versioned records, their JSON Schemas and deterministic ids."""

from __future__ import annotations

from streamfer.records.documents import (
    DOCUMENTS,
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
    VideoFacts,
    read_document,
)
from streamfer.records.envelope import Record, document_id
from streamfer.records.identity import SCHEMA_MAJOR, caption_id, clip_id, gap_id, state_id

__all__ = [
    "DOCUMENTS",
    "SCHEMA_MAJOR",
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
    "VideoFacts",
    "caption_id",
    "clip_id",
    "document_id",
    "gap_id",
    "read_document",
    "state_id",
]
