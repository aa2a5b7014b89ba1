"""The back of the pipeline: crops become features once, windows of features become records."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamfer.faces.alignment import sent
from streamfer.models.expression import ExpressionModel
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.events import Event, FrameFaces, SourceDone, SourceOpened, SourceStats
from streamfer.pipeline.items import AnalysedFrame, Changed, Ended, EpochOpened, Item, Replaced
from streamfer.pipeline.ledger import Ledger, Loss, Slept
from streamfer.pipeline.observer import ClipChooser, ObservedClip
from streamfer.pipeline.reports import RecordWriter
from streamfer.pipeline.session import ClipJob, EpochSession
from streamfer.pipeline.windows import WindowGrid
from streamfer.records import Record
from streamfer.video.frames import StateChange

#: Tracks of a source that are told apart in its counts; beyond, the longest silent are taken for new, so that a
#: camera's memory does not grow with the people that pass it.
_TRACKS_REMEMBERED = 4096
#: After a sleep, pictures that came before it are read first.
_WAKING_SECONDS = 1.0


@dataclass(slots=True)
class _SourceLog:
    """Running counts of one source."""

    stats: SourceStats
    ledger: Ledger
    #: (epoch, track) with a labelled clip, the latest last
    labelled: OrderedDict[tuple[int, int], None] = field(default_factory=OrderedDict)
    #: (epoch, track) seen, and whether it was ever large enough to be read; the latest last
    read: OrderedDict[tuple[int, int], bool] = field(default_factory=OrderedDict)
    faces_too_small: int = 0
    never_read: int = 0  #: tracks that are remembered no more and never were
    opened: EpochOpened | None = None
    epoch: int = 0  #: the latest that a change named
    ended: StateChange | None = None
    early: list[Event | ClipJob] = field(default_factory=list)  #: what was told before anything was analysed

    def count_clip(self, epoch: int, track: int) -> None:
        new = (epoch, track) not in self.labelled
        self.labelled[epoch, track] = None
        self.labelled.move_to_end((epoch, track))
        if len(self.labelled) > _TRACKS_REMEMBERED:
            self.labelled.popitem(last=False)
        self.stats = replace(self.stats, clips=self.stats.clips + 1, tracks=self.stats.tracks + new)

    def count(self, row: FrameFaces) -> None:
        """Take in who was large enough to be read in a frame, and who was not."""
        for track in [face.track for face in row.faces]:
            self._see(row.epoch, track, read=True)
        for track in row.too_small:
            self._see(row.epoch, track, read=False)
        self.faces_too_small += len(row.too_small)

    def _see(self, epoch: int, track: int, *, read: bool) -> None:
        self.read[epoch, track] = self.read.pop((epoch, track), False) or read
        if len(self.read) > _TRACKS_REMEMBERED:
            _, was_read = self.read.popitem(last=False)
            self.never_read += not was_read

    def final(self) -> SourceStats:
        never_read = self.never_read + sum(not read for read in self.read.values())
        return replace(self.stats, faces_too_small=self.faces_too_small, tracks_too_small=never_read)


@dataclass(slots=True, eq=False)
class Labeller:
    """Turns batches of items into events. Runs in one thread; all sources share its model calls."""

    model: ExpressionModel
    grid: WindowGrid
    records: RecordWriter
    clock: StageClock
    batch_size: int
    window: float  #: seconds of a clip: what a live source may lose before it is a gap
    chooser: ClipChooser | None
    slept: Slept  #: whether this process did not run between two Unix times
    _sessions: dict[str, EpochSession] = field(default_factory=dict)
    _logs: dict[str, _SourceLog] = field(default_factory=dict)

    def process(self, items: Sequence[Item]) -> list[Event | ObservedClip]:
        """Encode the crops of ``items`` together, close windows, classify them together.

        Events come in the order of the items, so in order for each source; behind the label of a clip that is shown to
        the observer comes what it is shown.
        """
        encoding = time.perf_counter()
        features, actions = self._encode(items)
        encode_s = time.perf_counter() - encoding
        pending: list[Event | ClipJob] = []
        taken = 0
        for item in items:
            if isinstance(item, AnalysedFrame):
                faces = len(item.crops)
                crops = slice(taken, taken + faces)
                pending += self._take_frame(item, features[crops], actions[crops])
                taken += faces
            elif not isinstance(item, Replaced):
                pending += self._take_notice(item)
        return self._label(pending, encode_s)

    def missing(self, now: float) -> list[Record]:
        """Return the gaps that go on at the Unix time ``now``, as far as they are to be told (again)."""
        if self.slept(now - _WAKING_SECONDS, now):
            # What came before this process slept has yet to be read: the gap begins behind it.
            return []
        told = []
        for source_id, log in self._logs.items():
            opened, ledger = log.opened, log.ledger
            if opened is None or not opened.info.live or (since := ledger.missing_since(now)) is None:
                continue
            cause = self._cause("no_pictures" if ledger.away is None else "reconnect", since, now)
            silent = self.records.loss(source_id, Loss(opened, cause, 0, since, now))
            away = self.records.offline_gap(source_id, (log.epoch, opened.info.epoch_key), cause, since, now)
            told.append(silent if ledger.away is None else away)
        return told

    def _cause(self, thought: str, since: float, until: float) -> str:
        return "suspended" if self.slept(since, until) else thought

    def _encode(self, items: Sequence[Item]) -> tuple[torch.Tensor, list[tuple[float, ...]]]:
        """Return the features (F, D) of all crops and, once for each of them, the action units' intensities."""
        cut = [item.crops for item in items if isinstance(item, AnalysedFrame) and len(item.crops)]
        if not cut:
            return torch.zeros((0, self.model.info.feature_dim)), []
        crops: Any = _together(cut)
        with self.clock.measure("encode", len(crops)):
            starts = range(0, len(crops), self.batch_size)
            features = torch.cat([self.model.encode(crops[at : at + self.batch_size]) for at in starts])
            if not self.model.info.action_units:
                return features, [()] * len(features)
            return features, [tuple(row) for row in self.model.actions(features).tolist()]

    def _take_frame(
        self, frame: AnalysedFrame, features: torch.Tensor, actions: Sequence[tuple[float, ...]]
    ) -> list[Event | ClipJob]:
        log = self._logs[frame.source_id]
        analysed, left_out = log.stats.frames_analysed + 1, log.stats.faces_left_out + frame.left_out
        log.stats = replace(log.stats, frames_analysed=analysed, faces_left_out=left_out)
        opened = log.opened
        losses = log.ledger.good(opened, frame.facts, self.slept) if opened and opened.info.live else []
        told = [self.records.loss(frame.source_id, loss) for loss in losses]
        return [*told, *self._sessions[frame.source_id].add(frame, features, actions)]

    def _take_notice(self, item: EpochOpened | Changed | Ended) -> list[Event | ClipJob]:
        ledger = Ledger(self.window, self.grid.length)
        log = self._logs.setdefault(item.source_id, _SourceLog(SourceStats(), ledger))
        if isinstance(item, EpochOpened):
            log.opened = item
            events = self._end_session(item.source_id, flush=True)
            model = self.model.info
            name = partial(self.records.track_id, item.source_id, item.epoch)
            # Whoever waits for a camera has its first label as soon as a window has what it needs.
            grid = self.grid.early() if item.info.live else self.grid
            self._sessions[item.source_id] = EpochSession(item, grid, model.action_units, name)
            opened = SourceOpened(
                item.source_id, item.epoch, item.info, self.records.classes, model.action_units, model.action_thresholds
            )
            early, log.early = log.early, []
            return [*events, opened, *early]
        if isinstance(item, Changed):
            return self._take_change(item.source_id, item.change, log)
        return self._end_source(item)

    def _take_change(self, source_id: str, change: StateChange, log: _SourceLog) -> list[Event | ClipJob]:
        events: list[Event | ClipJob] = []
        log.epoch = change.epoch
        if change.damage is not None:
            gap = self.records.damage_gap(source_id, change, change.damage)
            if log.opened is None:
                log.early.append(gap)
            return [gap] if log.opened else []
        if change.state == "ended":
            # Told behind the last clips.
            log.ended = change
            return []
        if change.state == "online":
            if (since := log.ledger.back()) is not None:
                key = change.info.epoch_key if change.info else str(change.epoch)
                cause = self._cause("reconnect", since, change.wall_time)
                gap = self.records.offline_gap(source_id, (change.epoch, key), cause, since, change.wall_time)
                events.append(gap)
            if change.leap is not None:
                events.append(self.records.leap_gap(source_id, change, change.leap))
                if not change.leap.pts:
                    # Between times by a clock and by the same clock set anew is no pause.
                    log.ledger.last = None
        else:
            events = self._end_session(source_id, flush=True)
            # "connecting" opens every live source: only what follows a picture leaves a gap.
            if log.stats.frames_analysed and log.ledger.away is None:
                log.ledger.gone(change.wall_time)
        return [*events, self.records.state(source_id, change)]

    def _end_source(self, item: Ended) -> list[Event | ClipJob]:
        events = self._end_session(item.source_id, flush=not item.stopped)
        log = self._logs[item.source_id]
        log.stats = replace(log.stats, frames_decoded=item.frames_decoded, frames_dropped=item.frames_dropped)
        ended = log.ended
        if ended is None:
            reason = " ".join(str(item.error).split()) if item.error else "stopped on request"
            ended = StateChange("ended", log.epoch, time.time(), reason)
        events.append(self.records.state(item.source_id, ended))
        note = log.ended.reason if log.ended else ""
        # The count of clips is complete only when the jobs before it are labelled: see _label.
        cut_off = log.ended is not None and log.ended.cut_off
        return [*events, SourceDone(item.source_id, item.error, item.stopped, note, cut_off)]

    def _end_session(self, source_id: str, *, flush: bool) -> list[Event | ClipJob]:
        session = self._sessions.pop(source_id, None)
        if session is None:
            return []
        log = self._logs[source_id]
        log.stats = replace(log.stats, seconds=log.stats.seconds + session.last_seconds)
        return [*session.finish(flush=flush)]

    def _label(self, pending: Sequence[Event | ClipJob], encode_s: float) -> list[Event | ObservedClip]:
        jobs = [entry for entry in pending if isinstance(entry, ClipJob)]
        probabilities = iter(self._classify(jobs))
        events: list[Event | ObservedClip] = []
        for entry in pending:
            if isinstance(entry, ClipJob):
                log = self._logs[entry.opened.source_id]
                log.count_clip(entry.opened.epoch, entry.track)
                record = self.records.labelled(entry, next(probabilities), encode_s)
                events.append(record)
                if self.chooser is not None and (shown := self.chooser.consider(entry, record)) is not None:
                    events.append(shown)
            elif isinstance(entry, SourceDone):
                events.append(replace(entry, stats=self._logs.pop(entry.source_id).final()))
            else:
                if isinstance(entry, FrameFaces):
                    self._logs[entry.source_id].count(entry)
                events.append(entry)
        return events

    def _classify(self, jobs: Sequence[ClipJob]) -> list[np.ndarray]:
        rows: list[np.ndarray] = []
        for start in range(0, len(jobs), self.batch_size):
            part = jobs[start : start + self.batch_size]
            with self.clock.measure("classify", len(part)):
                rows += list(self.model.classify(torch.stack([job.features for job in part])))
        return rows


def _together(parts: Sequence[NDArray[np.uint8] | torch.Tensor]) -> NDArray[np.uint8] | torch.Tensor:
    """Join crops; where some lie on the GPU, the others are sent there."""
    device = next((part.device for part in parts if isinstance(part, torch.Tensor)), None)
    if device is None:
        return np.concatenate(parts)
    return torch.cat([part if isinstance(part, torch.Tensor) else sent(part, device) for part in parts])
