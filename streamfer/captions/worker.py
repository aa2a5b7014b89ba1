"""Where clips wait for their captions: a bounded queue, a thread that empties it in batches, and what goes wrong.

The model's thread hands clips in and never waits for words (files may: see ``patient``). What waits too long is
dropped, a captioner that fails or hangs costs its captions and nothing else, and whatever gets no caption is counted
and reported as a gap.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamfer.captions.measurements import measure
from streamfer.captions.protocol import Caption, CaptionerInfo, CaptionError, CaptionRequest, Patience, Writer
from streamfer.captions.writers import MEASURED
from streamfer.config import CaptionsConfig
from streamfer.pipeline.events import SourceDone
from streamfer.pipeline.observer import ObservedClip, RunContext, label_of
from streamfer.records import ClipCaptioned, Gap, Latency, ModelFacts, Record

#: After so many failures in a row the captioner is left alone for a while: each of them may have cost a time-out.
_FAILURES_IN_A_ROW = 3
_REST_SECONDS = 60.0
#: What got no caption is reported so often while a source goes on, and at its end.
_REPORT_SECONDS = 30.0
#: A run that is stopped waits so long for the batch in hand.
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.1

#: What says that the captioner itself is broken; an endpoint rests by its own rules.
_BROKEN = {"captioner_failed", "captioner_timeout"}

#: Version of what lies between a clip and its text; rises when the same model would be shown or told something else.
CAPTION_HEAD_VERSION = "2"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class MissingCaptions:
    """Clips of one epoch that got no caption for one cause."""

    first: Record
    last: Record
    reason: str
    since: float
    count: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    job: ObservedClip
    since: float


class CaptionWorker:
    """Describes clips beside the labels; a :class:`~streamfer.pipeline.observer.ClipObserver`.

    Where it is ``patient``, a full queue makes the caller wait, and nothing is dropped for its age (files); otherwise
    what waits makes room for what is new.
    """

    def __init__(self, writer: Writer, settings: CaptionsConfig, run: RunContext, *, patient: bool = False) -> None:
        self._settings, self._patient = settings, patient
        self._emit, self._stop, self._clock = run.emit, run.stop, run.clock
        self._writer, self._info = writer, writer.info
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting | SourceDone] = deque()
        self._closing = False
        #: What became of each source's clips, by the names that its statistics have for it.
        self._tallies: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._lacks: dict[tuple[str, str, int, str], MissingCaptions] = {}
        self._failures = 0
        self._rest_until = 0.0
        self._thread = threading.Thread(target=self._run, name="streamfer captions", daemon=True)
        self._thread.start()

    # The model's thread -----------------------------------------------------------------------------------

    def take(self, entry: ObservedClip | SourceDone) -> None:
        """Queue a clip, or the end of a source behind its clips."""
        with self._changed:
            if isinstance(entry, SourceDone):
                self._waiting.append(entry)
            else:
                self._make_room()
                self._waiting.append(_Waiting(entry, time.monotonic()))
            self._changed.notify_all()

    def close(self) -> None:
        """Finish what waits (or, once the run is stopped, drop it), and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _make_room(self) -> None:
        while len(waiting := [entry for entry in self._waiting if isinstance(entry, _Waiting)]) >= self._settings.queue:
            if self._patient and self._thread.is_alive() and not self._stop.is_set():
                self._changed.wait(_POLL_SECONDS)
                continue
            # New people and changes are worth more than what was described before.
            oldest = next((entry for entry in waiting if entry.job.again), waiting[0])
            self._waiting.remove(oldest)
            self._lack(oldest.job, "queue_full", "clips came faster than the captioner writes")

    # Its own thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, SourceDone):
                self._finish(work)
            elif work:
                self._describe(work)
            self._report(_REPORT_SECONDS)

    def _next(self) -> list[ObservedClip] | SourceDone | None:
        """Wait for the end of a source, or for the clips of a batch; an empty batch when nothing came for long."""
        with self._changed:
            if not self._waiting:
                if self._closing:
                    return None
                self._changed.wait(_REPORT_SECONDS)
            before_end: list[_Waiting] = []
            for entry in self._waiting:
                if isinstance(entry, SourceDone):
                    if not before_end:
                        self._waiting.remove(entry)
                        return entry
                    break
                before_end.append(entry)
            first = sorted(before_end, key=lambda entry: entry.job.again)[: self._settings.batch_size]
            for entry in first:
                self._waiting.remove(entry)
            self._changed.notify_all()
            return [entry.job for entry in first if self._wanted(entry)]

    def _wanted(self, entry: _Waiting) -> bool:
        """Tell whether a clip is still worth its caption; counts it if not."""
        if self._stop.is_set():
            self._lack(entry.job, "stopped", "the run was stopped")
            return False
        if not self._patient and time.monotonic() - entry.since > self._settings.max_age:
            self._lack(entry.job, "too_old", f"waited longer than {self._settings.max_age:g} s for the captioner")
            return False
        return True

    def _describe(self, batch: Sequence[ObservedClip]) -> None:
        if time.monotonic() < self._rest_until:
            self._fail(batch, "captioner_resting", "the captioner failed several times in a row")
            return
        began = time.perf_counter()
        measured = [measure(clip.label, clip.units, clip.people) for clip in batch]
        requests = [
            CaptionRequest(known, clip.record.id, clip.record.subject, clip.keyframes.portraits)
            for known, clip in zip(measured, batch, strict=True)
        ]
        self._writer.patience = Patience(self._settings.timeout, self._stop, _GRACE_SECONDS)
        found = self._writer.write(requests)
        self._note_failure([one for one in found if isinstance(one, CaptionError)], len(batch))
        elapsed = time.perf_counter() - began
        self._clock.add("caption", elapsed, sum(isinstance(one, Caption) for one in found))
        for clip, request, caption in zip(batch, requests, found, strict=True):
            if isinstance(caption, CaptionError):
                self._fail([clip], caption.cause, str(caption))
            else:
                with self._changed:
                    self._tallies[clip.record.subject].update(captions=1, captions_replaced=bool(caption.replaced))
                self._emit(_described(clip, request, caption, self._info, elapsed))

    def _note_failure(self, errors: Sequence[CaptionError], clips: int) -> None:
        """Leave a captioner alone for a while that fails again and again: each failure may have cost a time-out."""
        broken = [error for error in errors if error.cause in _BROKEN]
        if len(broken) < clips:
            self._failures = 0
            return
        self._failures += 1
        facts = {"captioner": self._info.name, "clips": clips, "reason": str(broken[0])}
        log.warning("captions.failed", extra=facts)
        if self._failures >= _FAILURES_IN_A_ROW:
            self._failures, self._rest_until = 0, time.monotonic() + _REST_SECONDS
            log.warning("captions.resting", extra={"captioner": self._info.name, "seconds": _REST_SECONDS})

    def _finish(self, end: SourceDone) -> None:
        self._report(0.0, end.source_id)
        with self._changed:
            tally = self._tallies.pop(end.source_id, Counter())
        self._emit(replace(end, stats=replace(end.stats, **tally)))

    # Counting ---------------------------------------------------------------------------------------------

    def _fail(self, batch: Sequence[ObservedClip], cause: str, reason: str) -> None:
        with self._changed:
            for job in batch:
                self._lack(job, cause, reason, failed=cause != "no_picture")

    def _lack(self, job: ObservedClip, cause: str, reason: str, *, failed: bool = False) -> None:
        """Count a clip that gets no caption; the lock is held."""
        self._tallies[job.record.subject]["captions_failed" if failed else "captions_dropped"] += 1
        clip = job.label.clip
        key = (job.record.subject, clip.epoch_key, clip.epoch, cause)
        lack = self._lacks.setdefault(key, MissingCaptions(job.record, job.record, reason, time.monotonic()))
        lack.last, lack.count = job.record, lack.count + 1

    def _report(self, after: float, source_id: str | None = None) -> None:
        """Emit as gaps what has been lacking for ``after`` seconds; of one source, or of all."""
        now = time.monotonic()
        with self._changed:
            ripe = [
                key for key, lack in self._lacks.items() if now - lack.since >= after and source_id in (None, key[0])
            ]
            found = [(key, self._lacks.pop(key)) for key in ripe]
        for (_, _, _, cause), lack in found:
            self._emit(_gap(cause, lack))


def _described(
    clip: ObservedClip, request: CaptionRequest, caption: Caption, model: CaptionerInfo, infer_s: float
) -> Record:
    """Return the record of a description by ``model``, which took so many seconds for the clip's batch."""
    label, face = clip.label, clip.label.faces[0]
    total = (time.perf_counter() - clip.arrived) * 1000
    infer = min(infer_s * 1000, total)
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
        measured=request.measured.to_json(),
        model=ModelFacts(
            name=model.name,
            digest=model.digest,
            head_version=CAPTION_HEAD_VERSION,
            precision=model.precision,
            detector=label.model.detector,
        ),
        producer=label.producer,
        latency_ms=Latency(decode=label.latency_ms.decode, queue=max(0.0, total - infer), infer=infer, total=total),
    )
    return _beside(clip.record, document)


def _gap(cause: str, lack: MissingCaptions) -> Record:
    first, last = label_of(lack.first), label_of(lack.last)
    document = Gap(
        cause=cause,
        unit="captions",
        count=lack.count,
        epoch=first.clip.epoch,
        epoch_key=first.clip.epoch_key,
        start_time=first.clip.start_time,
        end_time=max(first.clip.end_time, last.clip.end_time),
        time_origin=first.clip.time_origin,
        reason=lack.reason,
        start_pts=first.clip.start_pts,
        end_pts=max(first.clip.end_pts, last.clip.end_pts),
        time_base=first.clip.time_base,
        producer=first.producer,
    )
    return _beside(lack.first, document)


def _beside(label: Record, document: ClipCaptioned | Gap) -> Record:
    return Record.of(document, source_id=label.subject, site=label.source.removeprefix("/streamfer/"))
