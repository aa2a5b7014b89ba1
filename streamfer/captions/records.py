"""The record of a description, which names the clip that it describes."""

from __future__ import annotations

import time

from streamfer.captions.measurements import Measurements
from streamfer.captions.protocol import Caption, CaptionerInfo
from streamfer.captions.writers import MEASURED
from streamfer.pipeline.observer import ObservedClip
from streamfer.records import ClipCaptioned, Latency, ModelFacts, Record

#: Version of what lies between a clip and its text; rises when the same model would be shown or told something else.
CAPTION_HEAD_VERSION = "2"


def caption_record(
    clip: ObservedClip, measured: Measurements, caption: Caption, model: CaptionerInfo, infer_s: float
) -> Record:
    """Return the record of a description.

    Args:
        clip: what was described.
        measured: what was known of it.
        caption: what was written.
        model: who was asked to write.
        infer_s: seconds that the captioner took for the clip's batch.
    """
    label, face = clip.label, clip.label.faces[0]
    total = time.perf_counter() - clip.arrived
    infer = min(infer_s, total)
    document = ClipCaptioned(
        clip_id=clip.record.id,
        clip=label.clip,
        track_id=face.track_id,
        track=face.track,
        text=caption.text,
        keyframes_pts=clip.keyframes.pts if model.crop is not None else (),
        generated=True,
        writer=MEASURED if caption.replaced else model.name,
        replaced=caption.replaced or None,
        measured=measured.to_json(),
        model=ModelFacts(
            name=model.name,
            digest=model.digest,
            head_version=CAPTION_HEAD_VERSION,
            precision=model.precision,
            detector=label.model.detector,
        ),
        producer=label.producer,
        latency_ms=Latency(
            decode=label.latency_ms.decode,
            queue=max(0.0, total - infer) * 1000,
            infer=infer * 1000,
            total=total * 1000,
        ),
    )
    site = clip.record.source.removeprefix("/streamfer/")
    return Record.of(document, source_id=clip.record.subject, site=site)
