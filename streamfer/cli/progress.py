"""What ``streamfer annotate`` shows of a batch: a bar while it runs, and what was found at the end."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

from streamfer.cli.terminal import caption_words, complain, console, note, plain
from streamfer.closing import Closing

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.table import Table

    from streamfer.export.batch import BatchReport, Begun, Failed, Skipped
    from streamfer.pipeline.events import Event, SourceDone
    from streamfer.records import Record

#: Clips that are listed one by one after a single file; more are only counted.
_LISTED_CLIPS = 60


class Progress(Closing):
    """Follows the events of a batch; where it is ``quiet``, errors are all that it says."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: RichProgress | None = None
        self._total = 0
        self._ended = 0
        self._durations: dict[str, float | None] = {}
        self._parts: dict[str, float] = {}
        self._clips: list[Record] = []
        self._captions: list[Record] = []

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def watch(self, event: Event | Begun | Skipped | Failed) -> None:
        """Take the next event of the batch."""
        from streamfer.export.batch import Begun, Failed, Skipped

        if isinstance(event, Begun):
            self._total = event.total
            return
        if isinstance(event, Skipped | Failed):
            self._end(event.source_id)
            if isinstance(event, Failed):
                complain(str(event.error))
            return
        from streamfer.pipeline.events import FrameFaces, SourceDone, SourceOpened

        if isinstance(event, SourceOpened):
            self._begin(event.source_id, event.info.duration)
        elif isinstance(event, FrameFaces):
            self._advance(event.source_id, event.seconds)
        elif isinstance(event, SourceDone):
            self._end(event.source_id)
            if event.note and not self._quiet:
                note(f"{event.source_id}: {event.note}")
        else:
            self._keep(event)

    def report(self, report: BatchReport) -> None:
        """Print what was found: the clips of a single file, a line for each of several."""
        for end in report.done:
            if end.stats.captions_failed or end.stats.captions_dropped:
                complain(
                    f"{end.source_id}: {'; '.join(caption_words(end.stats))}; gaps in its .records.jsonl say why, and "
                    "--overwrite does the file again"
                )
        if self._quiet or report.total == len(report.failed):
            return
        if len(report.done) == 1 and report.done[0].stats.clips:
            self._show_clips(report.done[0])
        elif len(report.done) > 1:
            console().print(_summary(report))
        for end in report.done:
            if end.stats.unread:
                note(f"{end.source_id}: {end.stats.unread}")
        for name, frames in report.doubtful.items():
            if frames:
                count = "1 frame" if frames == 1 else f"{frames} frames"
                note(f"{name}: {count} of the overlay may show a face that was not found (--blur-faces=strict)")
        if faceless := [end.source_id for end in report.done if not end.stats.clips]:
            note(f"no face long enough for a clip in: {', '.join(faceless)}")
        words = [f"{len(report.done)} done"]
        words += [f"{len(report.skipped)} already done (--overwrite does them again)"] if report.skipped else []
        words += [f"{len(report.failed)} failed"] if report.failed else []
        words += [f"stopped with {report.unreached} to do (the same command goes on)"] if report.unreached else []
        note(f"{', '.join(words)}; results in {report.output}/")

    def _keep(self, record: Record) -> None:
        from streamfer.records import ClipCaptioned, ClipLabelled

        if isinstance(record.data, ClipLabelled) and len(self._clips) < _LISTED_CLIPS:
            self._clips.append(record)
        elif isinstance(record.data, ClipCaptioned) and len(self._captions) < _LISTED_CLIPS:
            self._captions.append(record)

    def _show_clips(self, end: SourceDone) -> None:
        from streamfer.cli.tables import caption_table, clip_table

        # What was found in a file that failed is not among them.
        clips, captions = (
            [one for one in found if one.subject == end.source_id] for found in (self._clips, self._captions)
        )
        console().print(clip_table(clips))
        if end.stats.clips > len(clips):
            note(f"and {end.stats.clips - len(clips)} more clips in the tables")
        if captions:
            console().print(caption_table(captions))

    def _begin(self, source_id: str, duration: float | None) -> None:
        self._durations[source_id] = duration
        # Without a terminal a bar would be nothing but empty lines.
        if self._quiet or not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, console=console(sys.stderr), transient=True)
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        self._bar.update(self._task, description=plain(source_id))

    def _advance(self, source_id: str, seconds: float) -> None:
        if duration := self._durations.get(source_id):
            self._parts[source_id] = min(0.99, seconds / duration)
            self._show()

    def _end(self, source_id: str) -> None:
        self._parts.pop(source_id, None)
        self._durations.pop(source_id, None)
        self._ended += 1
        self._show()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._ended + sum(self._parts.values()))


def _summary(report: BatchReport) -> Table:
    """Return a table with a line for each file that is done."""
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", pad_edge=False, box=None)
    table.add_column("file", overflow="fold", min_width=16)
    for name in ("length", "people", "clips"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("labels", overflow="fold")
    for end in report.done:
        labels = report.labels.get(end.source_id, Counter()).most_common(3)
        stats = end.stats
        shares = ", ".join(f"{label} {count / stats.clips:.0%}" for label, count in labels)
        table.add_row(Text(plain(end.source_id)), f"{stats.seconds:.1f} s", str(stats.tracks), str(stats.clips), shares)
    return table
