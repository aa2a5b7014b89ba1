"""A batch of files: which are still to do, where each event goes, and what became of everything; it can be resumed."""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamfer.errors import InternalError, OutputError, SourceUnreadableError, StreamferError
from streamfer.export.folder import SourceFolder, is_own, place_of
from streamfer.export.job import Settings
from streamfer.export.progress import Progress
from streamfer.files import sha256_of

if TYPE_CHECKING:
    from streamfer.export.baseline import Baseline
    from streamfer.pipeline.events import Event, SourceDone
    from streamfer.video.locate import SourceSpec


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What is made of each file."""

    output: Path
    settings: Settings  #: what the results depend on, the formats and the blurring of faces among it
    captions: bool = False  #: clips are described; the descriptions get a table
    overwrite: bool = False  #: do files again that an earlier run has done
    baseline: Baseline | None = None
    #: tells the licence of each model by its name, once they are loaded
    licences: Callable[[], Mapping[str, str]] = dict
    bucket: str = ""  #: where the results go from there; nowhere if empty

    def folder_of(self, spec: SourceSpec) -> SourceFolder:
        more = {"captions": self.captions, "baseline": self.baseline, "licences": self.licences}
        return SourceFolder(self.output, spec, self.settings, **more)


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch begins: so many sources were named, those that were not found included."""

    total: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that an earlier run has done with the same settings."""

    source_id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A source that cannot be found or read, and why."""

    source_id: str
    error: StreamferError


#: What keeps every file from being written: a full, read-only or refusing disk, no folder.
_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR})

Watch = Callable[["Event | Begun | Skipped | Failed"], None]


@dataclass(slots=True)
class BatchReport:
    """What became of a batch."""

    output: Path | str  #: folder of the results
    total: int  #: sources, those that were named and not found included
    done: list[SourceDone] = field(default_factory=list)  #: ends of the files that are complete now, with their counts
    skipped: list[str] = field(default_factory=list)  #: files that were complete before
    failed: list[Failed] = field(default_factory=list)  #: what could not be done, and why
    #: for each file of ``done``, how many clips have which label
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    #: for each file of ``done`` whose overlay is blurred, how many of its frames may show a face
    doubtful: dict[str, int] = field(default_factory=dict)

    @property
    def unreached(self) -> int:
        """Files that are still to do because the run was stopped."""
        return self.total - len(self.done) - len(self.skipped) - len(self.failed)

    @property
    def captions_failed(self) -> int:
        """Captions that are missing in files that are done, because the captioner failed."""
        return sum(end.stats.captions_failed for end in self.done)

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is there."""
        return not (self.unreached or self.failed or self.captions_failed)

    def __repr__(self) -> str:
        words = f"{len(self.done)} done, {len(self.skipped)} already done, {len(self.failed)} failed"
        return f"BatchReport({words}, {self.unreached} to do; {self.output})"


class Batch:
    """Routes the events of many files to their results.

    Args:
        failed: sources that were named and not found.
        watch: told of the beginning, and of every event after it was dealt with.
        alone: it is one file of a larger batch, which others work at, too.
    """

    def __init__(
        self,
        specs: Sequence[SourceSpec],
        plan: BatchPlan,
        failed: Sequence[Failed] = (),
        watch: Watch | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self.plan = plan
        settings = plan.settings
        identity = f"{settings.config} {settings.model} {settings.detector}"
        self.progress = Progress(plan.output, identity, specs[0].source_id if alone else None)
        # Overlays of earlier runs are results, not sources.
        specs = [spec for spec in specs if not is_own(spec)]
        self.report = BatchReport(plan.bucket or plan.output, len(specs) + len(failed))
        self._specs = {spec.source_id: spec for spec in map(self._placed, specs)}
        self._spoiled: dict[str, StreamferError] = {}
        self._watch: Watch = watch or (lambda _event: None)
        self._folders: dict[str, SourceFolder] = {}
        self._digests: dict[str, str] = {}
        self._watch(Begun(self.report.total))
        for failure in failed:
            self._fail(failure)

    @property
    def specs(self) -> list[SourceSpec]:
        """All files, under the names that their results have."""
        return list(self._specs.values())

    def pending(self) -> Iterator[SourceSpec]:
        """Yield the files that are still to be done; each is looked at when its turn comes."""
        for spec in self._specs.values():
            if not self.plan.overwrite and (spec.stored or spec.version) and self._is_done(spec):
                self.report.skipped.append(spec.source_id)
                self._watch(Skipped(spec.source_id))
            else:
                yield spec

    def take(self, event: Event) -> None:
        """Route one event to its file's results; an OutputError where they cannot be written."""
        from streamfer.pipeline.events import FrameFaces, SourceDone, SourceOpened
        from streamfer.records import ClipLabelled

        self.progress.checkpoint(self._folders)
        if isinstance(event, SourceDone):
            remark = self.plan.baseline.remark(event.stats) if self.plan.baseline else ""
            event = replace(event, note="; ".join(filter(None, (event.note, remark))))
            self._finish(event)
            if not event.stopped:
                self.progress.finished(event.source_id)
            return
        if isinstance(event, SourceOpened):
            self._guarded(event.source_id, lambda: self._open(event.source_id, event.info.epoch_key))
        source_id = event.source_id if isinstance(event, SourceOpened | FrameFaces) else event.subject
        # A source's "online" state comes before it is open; its files begin with what is analysed.
        if (folder := self._folders.get(source_id)) is not None:
            self._guarded(source_id, lambda: folder.add(event))
        if not isinstance(event, SourceOpened | FrameFaces) and isinstance(event.data, ClipLabelled):
            labels = self.report.labels.setdefault(source_id, Counter())
            labels.update(face.label for face in event.data.faces)
        self._watch(event)

    def adopt(self, source_id: str, part: BatchReport) -> None:
        """Take over what became of a file elsewhere."""
        self.progress.finished(source_id)
        self.report.labels |= part.labels
        self.report.doubtful |= part.doubtful
        for skipped in part.skipped:
            self.report.skipped.append(skipped)
            self._watch(Skipped(skipped))
        for end in part.done:
            self.report.done.append(end)
            self._watch(end)
        for failure in part.failed:
            self._fail(failure)

    def lose(self, source_id: str, why: str) -> None:
        """Give up a file of which nothing came back."""
        self._fail(Failed(source_id, InternalError(why)))

    def write_study(self) -> None:
        """Write the tables of all files of the output folder; an OutputError where they cannot be written."""
        from streamfer.export.study import write_study

        settings = self.plan.settings
        failed = {failure.source_id: str(failure.error) for failure in self.report.failed}
        write_study(self.plan.output, settings.formats, settings.dialect, failed)

    def discard(self) -> None:
        """Leave nothing behind of files that did not come to their end."""
        for folder in self._folders.values():
            folder.discard()
        self._folders.clear()

    def _is_done(self, spec: SourceSpec) -> bool:
        folder = self.plan.folder_of(spec)
        if not spec.version:
            return folder.is_done(lambda: sha256_of(Path(spec.url)))
        return folder.has_version(spec.version) and folder.is_done(lambda: folder.owner()[1])

    def _open(self, source_id: str, digest: str) -> None:
        if source_id not in self._folders and source_id not in self._spoiled:
            folder = self.plan.folder_of(self._specs[source_id])
            folder.open()
            self._folders[source_id] = folder
            self._digests[source_id] = digest

    def _finish(self, event: SourceDone) -> None:
        folder = self._folders.get(event.source_id)
        if folder is not None and event.error is None and not event.stopped:
            self._guarded(event.source_id, lambda: folder.commit(self._digests.pop(event.source_id), event))
        self._folders.pop(event.source_id, None)
        error = event.error or self._spoiled.pop(event.source_id, None)
        if folder is not None and (error is not None or event.stopped):
            folder.discard()
        if error is not None:
            self._fail(Failed(event.source_id, error))
            return
        if folder is not None and not event.stopped and self.plan.settings.blurred != "off":
            self.report.doubtful[event.source_id] = folder.doubtful
        if event.cut_off and not event.stopped:
            place = f"{self.report.output}/{event.source_id}.partial.*"
            self._fail(Failed(event.source_id, SourceUnreadableError(
                f"{event.source_id}: {event.note}; what came is in {place}"
            )))  # fmt: skip
            return
        if not event.stopped:
            self.report.done.append(event)
        self._watch(event)

    def _guarded(self, source_id: str, work: Callable[[], None]) -> None:
        """Do something for one file; what goes wrong fails that file, unless no other could be written either."""
        try:
            work()
        except Exception as error:
            cause = error.__cause__
            refused = isinstance(cause, OSError) and cause.errno in _HOPELESS
            if isinstance(error, OutputError) and (refused or not self.plan.output.is_dir()):
                raise
            if (folder := self._folders.pop(source_id, None)) is not None:
                folder.discard()
            told = error if isinstance(error, StreamferError) else InternalError(f"{source_id}: {error!r}")
            self._spoiled[source_id] = told

    def _placed(self, spec: SourceSpec) -> SourceSpec:
        """Return a source under a name of its own where another place's results, of other bytes, lie under its name."""
        place, digest = self.plan.folder_of(spec).owner()
        ours = place_of(spec)
        if place in ("", ours) or (
            not spec.remote and Path(spec.url).is_file() and sha256_of(Path(spec.url)) == digest
        ):
            return spec
        return replace(spec, source_id=f"{spec.source_id}-{hashlib.sha256(ours.encode()).hexdigest()[:8]}")

    def _fail(self, failure: Failed) -> None:
        self.report.failed.append(failure)
        self._watch(failure)
