"""What is told of an observed clip, what the description's record says, and which captioner a name stands for."""

from __future__ import annotations

import time
from pathlib import Path

from streamfer.captions.context import ClipContext
from streamfer.captions.protocol import Caption, CaptionerInfo
from streamfer.errors import ConfigError
from streamfer.pipeline.observer import ObservedClip
from streamfer.records import ClipCaptioned, Latency, ModelFacts, Record

#: Version of what lies between keyframes and text; rises when the same weights would be shown something else.
CAPTION_HEAD_VERSION = "1"


def context_of(clip: ObservedClip) -> ClipContext:
    """Return what the label track knows of a clip besides its pictures."""
    frames = clip.keyframes
    return ClipContext(frames.apex, frames.onset, frames.offset, clip.label.faces[0].top)


def caption_record(job: ObservedClip, caption: Caption, model: CaptionerInfo, infer_s: float) -> Record:
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
