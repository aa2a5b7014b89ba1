"""``streamfer annotate``: video files in, tables out."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamfer.cli import options
from streamfer.cli.terminal import clip_table, complain, err, note, out
from streamfer.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from streamfer.config import Config
    from streamfer.export import Settings, SourceFolder
    from streamfer.pipeline.build import LoadedModels
    from streamfer.pipeline.events import Event, SourceDone
    from streamfer.pipeline.loop import Pipeline
    from streamfer.publish import Publisher
    from streamfer.records import Record
    from streamfer.video.frames import Source
    from streamfer.video.locate import SourceSpec


def annotate(
    paths: Annotated[list[str], typer.Argument(help="Video files, folders, patterns or http(s) URLs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("annotations"),
    formats: Annotated[str, typer.Option("--format", "-f", help="csv, jsonl, or both with a comma.")] = "csv,jsonl",
    whole_clip: Annotated[
        bool,
        typer.Option("--whole-clip", help="One clip a file, sampled at segment centres as DFER-CLIP's test does."),
    ] = False,
    redis: Annotated[
        str | None,
        typer.Option("--redis", help="Also publish the records: a Redis URL, or 'embedded' for the built-in server."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do files again that are already done.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress bar.")] = False,
    raw_size: Annotated[str | None, typer.Option("--raw-size", help="Size of .yuv files, e.g. 320x192.")] = None,
    raw_fps: Annotated[float | None, typer.Option("--raw-fps", help="Rate of .yuv, .264 and .h265 files.")] = None,
    track_salt: Annotated[
        str | None,
        typer.Option("--track-salt", help="Makes track ids repeatable across runs; random if not given."),
    ] = None,
    config_file: options.ConfigFile = None,
    model: options.Model = None,
    detector: options.Detector = None,
    device: options.Device = None,
    precision: options.Precision = None,
    fps: options.Fps = None,
    clip_seconds: options.Seconds = None,
    stride: options.Stride = None,
    threads: options.Threads = None,
    assignments: options.Set = None,
) -> None:
    """Label the expressions in video files and folders, and write a table for each.

    Every file gets NAME.clips.csv (one row a clip and face), NAME.frames.csv (one row a face of an analysed
    frame) and NAME.records.jsonl (what subscribers of Redis receive). A file that fails is named and leaves
    nothing behind; the others are still done. Files done before with the same settings are skipped.
    """
    config = options.configure(
        config_file,
        {
            "model.name": model,
            "faces.detector": detector,
            "model.device": device,
            "model.precision": precision,
            "sampling.fps": fps,
            "clip.seconds": clip_seconds,
            "clip.stride": stride,
            "clip.mode": "whole" if whole_clip else None,
            "threads": threads,
        },
        assignments,
    )
    from streamfer.export import Settings, check_formats
    from streamfer.pipeline.build import build_pipeline, load_models

    names = check_formats(formats)
    specs, failures = _find(paths, raw_size, raw_fps)
    if not specs:
        raise SystemExit(2)
    models = load_models(config)
    settings = Settings(_digest(config), models.expression.info.digest, models.detector.name, names)
    publisher = _publisher(redis, config)
    job = _Job(specs, output, settings, publisher, overwrite=overwrite, table=not quiet)
    pipeline = build_pipeline(config, models, live=False, salt=track_salt)
    try:
        _work(job, pipeline, models, show=not quiet)
    finally:
        if publisher is not None:
            publisher.close()
    _report(job, output, quiet=quiet)
    if failures or job.failed:
        raise SystemExit(2)


def _find(paths: list[str], raw_size: str | None, raw_fps: float | None) -> tuple[list[SourceSpec], int]:
    """Return the sources that exist, and how many arguments named none; each of those gets its line."""
    from streamfer.errors import SourceError
    from streamfer.video import find_sources

    good: list[str] = []
    for path in paths:
        try:
            find_sources([path])
        except SourceError as error:
            complain(str(error))
        else:
            good.append(path)
    specs = find_sources(good) if good else []
    return [_with_raw_layout(spec, raw_size, raw_fps) for spec in specs], len(paths) - len(good)


def _with_raw_layout(spec: SourceSpec, size: str | None, fps: float | None) -> SourceSpec:
    """Apply ``--raw-size`` and ``--raw-fps``; files with a header ignore them."""
    if size is not None:
        match = re.fullmatch(r"(\d+)[xX](\d+)", size)
        if match is None:
            raise ConfigError(f"--raw-size {size}: expected WIDTHxHEIGHT, e.g. 320x192")
        spec = replace(spec, raw_size=(int(match[1]), int(match[2])))
    return spec if fps is None else replace(spec, raw_fps=Fraction(fps).limit_denominator(1001))


def _publisher(redis: str | None, config: Config) -> Publisher | None:
    if redis is None:
        return None
    from streamfer.cli.publishing import open_publisher

    url = None if redis == "embedded" else redis
    return open_publisher(config.publish.model_copy(update={"redis": url}))


def _digest(config: Config) -> str:
    """Return a short digest of the settings that results depend on."""
    relevant = config.model_dump_json(include={"sampling", "clip", "faces"})
    return hashlib.sha256(relevant.encode()).hexdigest()[:16]


@dataclass(slots=True)
class _Job:
    """Where each source's events go."""

    specs: list[SourceSpec]
    output: Path
    settings: Settings
    publisher: Publisher | None
    overwrite: bool
    table: bool
    clips: list[Record] = field(default_factory=list)
    done: list[SourceDone] = field(default_factory=list)
    failed: int = 0
    skipped: int = 0
    _folders: dict[str, SourceFolder] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)

    def pending(self, decode_threads: int, progress: _Bars) -> Iterator[Source]:
        """Yield the sources that are still to be done, opening nothing before it is needed."""
        from streamfer.export import SourceFolder
        from streamfer.video import open_source

        for spec in self.specs:
            folder = SourceFolder(self.output, spec.source_id, self.settings)
            if not self.overwrite and not spec.remote and folder.is_done(_file_digest(Path(spec.url))):
                self.skipped += 1
                progress.finish(spec.source_id)
                continue
            yield open_source(spec, decode_threads=decode_threads)

    def take(self, event: Event, progress: _Bars) -> None:
        """Route one event to its source's files, to Redis and to the progress bar."""
        from streamfer.pipeline.events import FrameFaces, SourceDone, SourceOpened
        from streamfer.records import ClipLabelled

        if isinstance(event, SourceDone):
            self._finish(event)
            progress.finish(event.source_id)
            return
        if isinstance(event, SourceOpened):
            self._open(event)
            progress.open(event.source_id, event.info.duration)
        elif isinstance(event, FrameFaces):
            progress.advance(event.source_id, event.seconds)
        elif self.publisher is not None:
            self.publisher.publish_many([event])
        source_id = event.subject if not isinstance(event, FrameFaces | SourceOpened) else event.source_id
        if (folder := self._folders.get(source_id)) is not None:
            folder.add(event)
        if self.table and not isinstance(event, FrameFaces | SourceOpened) and isinstance(event.data, ClipLabelled):
            self.clips.append(event)

    def discard(self) -> None:
        """Leave nothing behind of sources that did not end."""
        for folder in self._folders.values():
            folder.discard()
        self._folders.clear()

    def _open(self, event: Any) -> None:
        from streamfer.export import SourceFolder

        if event.source_id not in self._folders:
            folder = SourceFolder(self.output, event.source_id, self.settings)
            folder.open()
            self._folders[event.source_id] = folder
            self._digests[event.source_id] = event.info.epoch_key

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
            folder.commit(self._digests[event.source_id], event)
        if event.note:
            note(f"{event.source_id}: {event.note}")
        self.done.append(event)


class _Bars:
    """One progress bar over all sources, in units of a source."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=total)
        self._durations: dict[str, float | None] = {}
        self._parts: dict[str, float] = {}
        self._finished = 0

    def open(self, source_id: str, duration: float | None) -> None:
        """A source has begun."""
        self._durations[source_id] = duration
        self._progress.update(self._task, description=source_id)

    def advance(self, source_id: str, seconds: float) -> None:
        """A source has come to ``seconds``."""
        if duration := self._durations.get(source_id):
            self._parts[source_id] = min(0.99, seconds / duration)
            self._show()

    def finish(self, source_id: str) -> None:
        """A source has ended, or was skipped."""
        self._parts.pop(source_id, None)
        self._finished += 1
        self._show()

    def _show(self) -> None:
        self._progress.update(self._task, completed=self._finished + sum(self._parts.values()))


def _work(job: _Job, pipeline: Pipeline, models: LoadedModels, *, show: bool) -> None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    previous = signal.signal(signal.SIGTERM, lambda *_: pipeline.stop())
    try:
        with Progress(*columns, console=err, transient=True, disable=not show) as progress:
            bars = _Bars(progress, len(job.specs))
            for event in pipeline.events(job.pending(models.budget.decode, bars)):
                job.take(event, bars)
    finally:
        job.discard()
        signal.signal(signal.SIGTERM, previous)


def _report(job: _Job, output: Path, *, quiet: bool) -> None:
    if quiet:
        return
    if job.clips:
        out.print(clip_table(job.clips))
    faceless = [done.source_id for done in job.done if not done.stats.clips]
    if faceless:
        note(f"no face long enough for a clip in: {', '.join(faceless)}")
    words = [f"{len(job.done)} done"]
    words += [f"{job.skipped} already done (--overwrite does them again)"] if job.skipped else []
    words += [f"{job.failed} failed"] if job.failed else []
    note(f"{', '.join(words)}; results in {output}/")


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
