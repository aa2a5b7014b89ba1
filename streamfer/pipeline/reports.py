"""Writing down what the pipeline found, as records."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfer.models.expression import Abstention, ModelInfo
from streamfer.pipeline.ledger import REASONS, Loss
from streamfer.pipeline.session import ClipJob
from streamfer.records import (
    ClipLabelled,
    ClipSpan,
    FaceReading,
    Gap,
    Latency,
    ModelFacts,
    Producer,
    Record,
    SourceStateChanged,
    TimeOrigin,
    Transform,
    UnsureReason,
    VideoFacts,
)
from streamfer.redaction import redact_text
from streamfer.video.frames import Damage, Leap, StateChange

#: Version of what lies between features and probabilities; rises when the same weights would say something else.
HEAD_VERSION = "1"
_Span = tuple[float, float, TimeOrigin]


def this_producer(purpose: str | None = None) -> Producer:
    """Return what says that this process makes records, as a run of its own with a stated ``purpose``."""
    run_id = uuid.uuid4().hex[:12]
    return Producer(version=version("streamfer"), host=socket.gethostname(), run_id=run_id, purpose=purpose)


class RecordWriter:
    """Makes the records of one run.

    Args:
        site: last part of ``ce_source``.
        track_name: public name of a track from source id, epoch and number.
    """

    def __init__(
        self,
        model: ModelInfo,
        detector: str,
        site: str,
        track_name: Callable[[str, int, int], str],
        *,
        emotions: bool = True,
        purpose: str | None = None,
    ) -> None:
        self._model = model
        self.classes = model.classes if emotions else ()  #: labels that a record may name
        self._site = site
        self.track_id = track_name
        self._facts = ModelFacts(
            name=model.name,
            digest=model.digest,
            head_version=HEAD_VERSION,
            precision=model.precision,
            detector=detector,
        )
        self._producer = this_producer(purpose)

    def labelled(self, job: ClipJob, probabilities: NDArray[np.float32], encode_s: float) -> Record:
        """Return the record of one classified window.

        Args:
            probabilities: float32 (C,), in the order of the model's classes.
            encode_s: seconds that the encoder's last batch took.
        """
        every = {name: float(value) for name, value in zip(self._model.classes, probabilities, strict=True)}
        emotions = every if self.classes else {}
        last = job.sightings[-1]
        means, peaks = self._action_units(job)
        reason = unsure_reason(self._model.abstention, job, max(every.values()))
        if not emotions and reason in (None, "uncertain"):
            reason = "withheld"
        face = FaceReading(
            track_id=self.track_id(job.opened.source_id, job.opened.epoch, job.track),
            track=job.track,
            box=last.box,
            det_score=float(np.mean([sighting.face.score for sighting in job.sightings])),
            emotions=emotions,
            top=None if reason else max(emotions, key=emotions.__getitem__),
            reason=reason,
            quality=float(np.mean([sighting.face.quality for sighting in job.sightings])),
            action_units=means,
            action_units_peak=peaks,
        )
        document = ClipLabelled(
            clip=_span(job),
            video=_video(job),
            faces=(face,),
            model=self._facts,
            producer=self._producer,
            latency_ms=_latency(job, encode_s),
        )
        return Record.of(document, source_id=job.opened.source_id, site=self._site)

    def _action_units(self, job: ClipJob) -> tuple[dict[str, float], dict[str, float]] | tuple[None, None]:
        """Return each unit's mean and peak over the pictures that showed the face; None if the model reads none."""
        names = self._model.action_units
        if not names:
            return None, None
        intensities = np.array([sighting.actions for sighting in job.sightings])
        means, peaks = intensities.mean(axis=0).tolist(), intensities.max(axis=0).tolist()
        return dict(zip(names, means, strict=True)), dict(zip(names, peaks, strict=True))

    def state(self, source_id: str, change: StateChange) -> Record:
        """Return the record of a source's change of state."""
        document = SourceStateChanged(
            state=change.state,
            epoch=change.epoch,
            wall_time=change.wall_time,
            reason=redact_text(change.reason),
            attempt=change.attempt,
            delay=change.delay,
            epoch_key=change.info.epoch_key if change.info else None,
            producer=self._producer,
        )
        return Record.of(document, source_id=source_id, site=self._site)

    def offline_gap(self, source_id: str, place: tuple[int, str], cause: str, since: float, until: float) -> Record:
        """Return the record of the stretch in which a live source gave nothing, between two Unix times in seconds."""
        return self._gap(source_id, cause, place, (since, max(since, until), "wallclock"), REASONS[cause])

    def loss(self, source_id: str, loss: Loss) -> Record:
        """Return the record of pictures that were lost between two good frames."""
        place = (loss.opened.epoch, loss.opened.info.epoch_key)
        span: _Span = (loss.start, loss.end, loss.opened.time_origin)
        return self._gap(source_id, loss.cause, place, span, REASONS[loss.cause], loss.count)

    def damage_gap(self, source_id: str, change: StateChange, damage: Damage) -> Record:
        """Return the record of a stretch of a file whose pictures are damaged."""
        place = (damage.epoch, change.info.epoch_key if change.info else str(damage.epoch))
        media = {"media_start_time": damage.media_begin, "media_end_time": damage.media_end}
        span: _Span = (damage.begin, damage.end, "file")
        return self._gap(source_id, "decode_error", place, span, change.reason, damage.pictures, **media)

    def leap_gap(self, source_id: str, online: StateChange, leap: Leap) -> Record:
        """Return the record of the stretch that a source's clock passed over; it lies before the new epoch's zero."""
        place = (online.epoch, online.info.epoch_key if online.info else str(online.epoch))
        base = (leap.time_base.numerator, leap.time_base.denominator)
        passed: dict[str, Any] = {"start_pts": -leap.pts, "end_pts": 0, "time_base": base}
        span: _Span = (leap.wall_time, leap.wall_time, leap.time_origin)
        return self._gap(source_id, "clock_jump", place, span, redact_text(online.reason), **passed)

    def _gap(
        self,
        source_id: str,
        cause: str,
        place: tuple[int, str],
        span: _Span,
        reason: str,
        count: int = 0,
        **more: Any,
    ) -> Record:
        """Return a gap record of frames: in its epoch of that key, from a start to an end of that origin."""
        names = ("epoch", "epoch_key", "start_time", "end_time", "time_origin")
        facts = dict(zip(names, (*place, *span), strict=True)) | more
        document = Gap(cause=cause, unit="frames", count=count, reason=reason, producer=self._producer, **facts)
        return Record.of(document, source_id=source_id, site=self._site)


def unsure_reason(limits: Abstention, job: ClipJob, probability: float) -> UnsureReason | None:
    """Return why the expression of a window must not be named, the first of the reasons; None where it may be.

    The medians over the pictures that truly showed the face are what counts.
    """
    faces = [sighting.face for sighting in job.sightings]
    seen: tuple[tuple[UnsureReason, float | None, float], ...] = (
        ("small", limits.min_side, median(face.side for face in faces)),
        ("turned", limits.min_pose, median(face.pose for face in faces)),
        ("blurred", limits.min_sharpness, median(face.sharpness for face in faces)),
        ("uncertain", limits.min_probability, probability),
    )
    return next((reason for reason, least, value in seen if least is not None and value < least), None)


def _span(job: ClipJob) -> ClipSpan:
    before = job.first.dropped
    dropped = {cause: number - before.get(cause, 0) for cause, number in job.last.dropped.items()}
    opened = job.opened
    return ClipSpan(
        start_pts=job.first.pts,
        end_pts=job.last.pts,
        time_base=(opened.time_base.numerator, opened.time_base.denominator),
        epoch=opened.epoch,
        epoch_key=opened.info.epoch_key,
        start_time=job.first.wall_time,
        end_time=max(job.first.wall_time, job.last.wall_time),
        time_origin=opened.time_origin,
        frames_sampled=job.frames_sampled,
        frames_real=min(len(set(job.ticks)), job.frames_sampled),
        frames_decoded=job.last.index - job.first.index + 1,
        frames_dropped={cause: number for cause, number in dropped.items() if number},
        faces_too_small=job.faces_too_small or None,
        media_start_time=job.first.media_seconds,
        media_end_time=job.last.media_seconds,
    )


def _video(job: ClipJob) -> VideoFacts:
    info = job.opened.info
    elapsed = job.last.seconds - job.first.seconds
    return VideoFacts(
        width=info.width,
        height=info.height,
        codec=info.codec,
        declared_fps=info.declared_fps,
        measured_fps=(job.last.index - job.first.index) / elapsed if elapsed > 0 else None,
        transforms=(Transform(kind="rotate", values=(float(info.rotation),)),) if info.rotation else (),
    )


def _latency(job: ClipJob, encode_s: float) -> Latency:
    now = time.perf_counter()
    total = now - job.last.arrived
    infer = min(total, job.last.detect_s + encode_s)
    dated = job.opened.time_origin in ("rtcp", "wallclock")
    return Latency(
        decode=job.last.decode_s * 1000,
        queue=max(0.0, total - infer) * 1000,
        infer=infer * 1000,
        total=total * 1000,
        lag=max(0.0, time.time() - job.last.wall_time) * 1000 if dated else None,
    )
