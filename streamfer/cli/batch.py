"""The bookkeeping of a batch of files: where each event goes, what is done, and how far it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from streamfer.cli.run import caption_words
from streamfer.cli.terminal import caption_table, clip_table, complain, note, out
from streamfer.export import OverlayWriter, Settings, SourceFolder
from streamfer.export.captions import CaptionCsv
from streamfer.export.tables import MakeWriter
from streamfer.pipeline.events import Event, FrameFaces, SourceDone, SourceOpened
from streamfer.records import ClipCaptioned, ClipLabelled, Record
from streamfer.video import open_source
from streamfer.video.locate import STILL_SUFFIXES

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from streamfer.publish import Sink
    from streamfer.video.frames import Source
    from streamfer.video.locate import SourceSpec

#: Clips that are listed one by one after a single file; more are only counted.
_LISTED_CLIPS = 60


@dataclass(slots=True)
class Batch:
    """Routes the events of many files.

    Attributes:
        specs: the files.
        output: folder of the results.
        settings: what the results depend on.
        sink: where records are published too, or None.
        overwrite: do files again that an earlier run has done.
        overlay, blur_faces: also draw what was found onto a copy of the video, and hide the faces in it.
        captions: clips are described; the descriptions get a table.
        done, failed, skipped: ends of files; the rest was not reached because the run was stopped.
        labels: for each file that is done, how many clips have which label.
        first_clips, first_captions: the first few clips and their captions, for the table of a single file.
    """

    specs: list[SourceSpec]
    output: Path
    settings: Settings
    sink: Sink | None
    overwrite: bool
    overlay: bool = False
    blur_faces: bool = False
    captions: bool = False
    done: list[SourceDone] = field(default_factory=list)
    failed: int = 0
    skipped: int = 0
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    first_clips: list[Record] = field(default_factory=list)
    first_captions: list[Record] = field(default_factory=list)
    _folders: dict[str, SourceFolder] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)

    def pending(self, decode_threads: int, progress: Bars) -> Iterator[Source]:
        """Yield the sources that are still to be done, opening nothing before it is needed."""
        for spec in self.specs:
            folder = self._folder(spec)
            if not self.overwrite and not spec.remote and folder.is_done(_file_digest(Path(spec.url))):
                self.skipped += 1
                progress.finish(spec.source_id)
            else:
                yield open_source(spec, decode_threads=decode_threads)

    def take(self, event: Event, progress: Bars) -> None:
        """Route one event to its file's results, to the sink and to the progress bar.

        Raises:
            OutputError: results cannot be written.
            PublishError: Redis refuses or has gone.
        """
        if isinstance(event, SourceDone):
            self._finish(event)
            progress.finish(event.source_id)
        elif isinstance(event, SourceOpened):
            self._open(event)
            self._add(event.source_id, event)
            progress.open(event.source_id, event.info.duration)
        elif isinstance(event, FrameFaces):
            self._add(event.source_id, event)
            progress.advance(event.source_id, event.seconds)
        else:
            self._add(event.subject, event)
            self._count(event)
            if self.sink is not None:
                self.sink.publish_many([event])

    @property
    def undescribed(self) -> int:
        """Captions that failed in files that are done."""
        return sum(end.stats.captions_failed for end in self.done)

    def discard(self) -> None:
        """Leave nothing behind of files that did not come to their end."""
        for folder in self._folders.values():
            folder.discard()
        self._folders.clear()

    def report(self) -> None:
        """Print what was found: the clips of a single file, a line for each of several."""
        if len(self.done) == 1 and self.first_clips:
            out.print(clip_table(self.first_clips))
            more = self.done[0].stats.clips - len(self.first_clips)
            if more > 0:
                note(f"and {more} more clips in the tables")
            if self.first_captions:
                out.print(caption_table(self.first_captions))
        elif len(self.done) > 1:
            out.print(self._summary())
        for end in self.done:
            if end.stats.captions_failed or end.stats.captions_dropped:
                complain(
                    f"{end.source_id}: {'; '.join(caption_words(end.stats))}; gaps in its .records.jsonl say why, and "
                    "--overwrite does the file again"
                )
        faceless = [end.source_id for end in self.done if not end.stats.clips]
        if faceless:
            note(f"no face long enough for a clip in: {', '.join(faceless)}")
        words = [f"{len(self.done)} done"]
        words += [f"{self.skipped} already done (--overwrite does them again)"] if self.skipped else []
        words += [f"{self.failed} failed"] if self.failed else []
        undone = len(self.specs) - len(self.done) - self.skipped - self.failed
        words += [f"stopped with {undone} to do (the same command goes on)"] if undone else []
        note(f"{', '.join(words)}; results in {self.output}/")

    def _open(self, event: SourceOpened) -> None:
        if event.source_id not in self._folders:
            folder = self._folder(next(spec for spec in self.specs if spec.source_id == event.source_id))
            folder.open()
            self._folders[event.source_id] = folder
            self._digests[event.source_id] = event.info.epoch_key

    def _folder(self, spec: SourceSpec) -> SourceFolder:
        more: list[tuple[str, MakeWriter]] = [(CaptionCsv.suffix, CaptionCsv)] if self.captions else []
        if not self.overlay:
            return SourceFolder(self.output, spec.source_id, self.settings, more)
        still = Path(spec.url).suffix.lower() in STILL_SUFFIXES

        def overlay(path: Path) -> OverlayWriter:
            return OverlayWriter(path, open_source(spec), blur=self.blur_faces)

        drawn = f".overlay{'.png' if still else '.mp4'}"
        return SourceFolder(self.output, spec.source_id, self.settings, [*more, (drawn, overlay)])

    def _add(self, source_id: str, event: Event) -> None:
        # A source's "online" state comes before it is open; its files begin with what is analysed.
        if (folder := self._folders.get(source_id)) is not None:
            folder.add(event)

    def _count(self, record: Record) -> None:
        if isinstance(record.data, ClipLabelled):
            for face in record.data.faces:
                self.labels.setdefault(record.subject, Counter())[face.top] += 1
            if len(self.specs) == 1 and len(self.first_clips) < _LISTED_CLIPS:
                self.first_clips.append(record)
        elif isinstance(record.data, ClipCaptioned) and len(self.first_captions) < _LISTED_CLIPS:
            self.first_captions.append(record)

    def _finish(self, event: SourceDone) -> None:
        folder = self._folders.pop(event.source_id, None)
        if event.error is not None or event.stopped:
            if folder is not None:
                folder.discard()
            if event.error is not None:
                self.failed += 1
                complain(str(event.error))
            return
        if folder is not None:
            folder.commit(self._digests.pop(event.source_id), event)
        if event.note:
            note(f"{event.source_id}: {event.note}")
        self.done.append(event)

    def _summary(self) -> Table:
        table = Table(header_style="bold", pad_edge=False, box=None)
        table.add_column("file", overflow="fold", min_width=16)
        for name in ("length", "people", "clips"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("labels", overflow="fold")
        for end in self.done:
            labels = self.labels.get(end.source_id, Counter()).most_common(3)
            shares = ", ".join(f"{label} {count / end.stats.clips:.0%}" for label, count in labels)
            stats = end.stats
            table.add_row(end.source_id, f"{stats.seconds:.1f} s", str(stats.tracks), str(stats.clips), shares)
        return table


class Bars:
    """One progress bar over all files, in units of a file."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=total)
        self._durations: dict[str, float | None] = {}
        self._parts: dict[str, float] = {}
        self._finished = 0

    def open(self, source_id: str, duration: float | None) -> None:
        """A file has begun."""
        self._durations[source_id] = duration
        self._progress.update(self._task, description=source_id)

    def advance(self, source_id: str, seconds: float) -> None:
        """A file has come to ``seconds``."""
        if duration := self._durations.get(source_id):
            self._parts[source_id] = min(0.99, seconds / duration)
            self._show()

    def finish(self, source_id: str) -> None:
        """A file has ended, or was skipped."""
        self._parts.pop(source_id, None)
        self._durations.pop(source_id, None)
        self._finished += 1
        self._show()

    def _show(self) -> None:
        self._progress.update(self._task, completed=self._finished + sum(self._parts.values()))


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
