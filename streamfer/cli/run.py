"""``streamfer run``: sources in, records out, until stopped."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli import options
from streamfer.cli.terminal import bar, complain, note, out
from streamfer.errors import ConfigError, PublishError

if TYPE_CHECKING:
    from streamfer.config import Config
    from streamfer.pipeline.events import Event, SourceDone, SourceStats
    from streamfer.pipeline.loop import Pipeline
    from streamfer.publish import Publisher
    from streamfer.records import Record
    from streamfer.video.frames import Source
    from streamfer.video.locate import SourceSpec

_HEARTBEAT_SECONDS = 10.0

log = logging.getLogger(__name__)


def run(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="rtsp:// and http(s):// URLs, webcam:0, files. Overrides the configuration's sources."),
    ] = None,
    config_file: options.ConfigFile = None,
    redis: options.RedisUrl = None,
    wait: Annotated[
        bool | None, typer.Option("--wait/--no-wait", help="Keep trying sources that do not answer at the start.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no clips, only errors.")] = False,
    captions: options.Captions = None,
    captioner: options.Captioner = None,
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
    """Analyse live and file sources and publish a record for each clip and face to Redis.

    Runs until every source has ended, or until Ctrl-C or SIGTERM, which publish what is complete and exit
    with 0. A camera that breaks is opened again, and its records say so.
    """
    config = options.configure(
        config_file,
        {
            "publish.redis": redis,
            "live.wait": wait,
            "model.name": model,
            "faces.detector": detector,
            "model.device": device,
            "model.precision": precision,
            "sampling.fps": fps,
            "clip.seconds": clip_seconds,
            "clip.stride": stride,
            "threads": threads,
            **options.caption_flags(captions, captioner),
        },
        assignments,
    )
    from streamfer.cli.publishing import follow_command, open_publisher

    specs = _specs(sources or [], config)
    publisher = open_publisher(config.publish)
    try:
        from streamfer.build import build_pipeline, load_models

        models = load_models(config, len(specs))
        pipeline = build_pipeline(config, models, live=True)
        note(f"{len(specs)} source{'s' if len(specs) != 1 else ''}; follow the records with: "
             f"{follow_command(config.publish)}")  # fmt: skip
        opened = (_open(spec, config, models.budget.decode) for spec in specs)
        failed = _publish_all(pipeline, opened, publisher, quiet=quiet)
    finally:
        publisher.close()
    if failed:
        raise SystemExit(2)


def _specs(arguments: list[str], config: Config) -> list[SourceSpec]:
    from dataclasses import replace

    from streamfer.video import find_sources

    if arguments:
        return find_sources(arguments)
    if not config.sources:
        raise ConfigError("no source: name one (streamfer run rtsp://...), or list them under 'sources:' in -c FILE")
    specs: list[SourceSpec] = []
    for source in config.sources:
        found = find_sources([source.url])
        specs += [replace(found[0], source_id=source.id)] if source.id and len(found) == 1 else found
    ids = [spec.source_id for spec in specs]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ConfigError(f"sources: the id {twice[0]!r} is used twice; give each source an id of its own")
    return specs


def _open(spec: SourceSpec, config: Config, decode_threads: int) -> Source:
    from streamfer.video import open_source
    from streamfer.video.live import Backoff

    live = config.live
    return open_source(
        spec,
        decode_threads=decode_threads,
        transport=live.transport,
        open_timeout=live.open_timeout,
        stall_seconds=live.stall_timeout,
        first_open="retry" if live.wait else "fail",
        backoff=Backoff(initial=live.backoff_first, cap=live.backoff_cap),
    )


def _publish_all(pipeline: Pipeline, sources: Iterator[Source], publisher: Publisher, *, quiet: bool) -> int:
    """Publish every record until the sources have ended or a signal came; return how many sources failed."""
    from streamfer.pipeline.events import FrameFaces, SourceDone, SourceOpened

    failed = 0
    beats = _Heartbeats(publisher)
    with stopping(pipeline):
        for event in pipeline.events(sources):
            if isinstance(event, SourceDone):
                failed += event.error is not None
                _say_done(event)
            elif isinstance(event, FrameFaces):
                beats.beat(event)
            elif not isinstance(event, SourceOpened):
                publisher.publish_many([event])
                if not quiet:
                    out.print(record_line(event), soft_wrap=True)
    return failed


class _Heartbeats:
    """Keeps each source's status hash in Redis alive while frames are analysed."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._last: dict[str, float] = {}

    def beat(self, event: Event) -> None:
        """Note that a source is alive; writes at most every ten seconds."""
        from streamfer.pipeline.events import FrameFaces

        now = time.monotonic()
        if isinstance(event, FrameFaces) and now - self._last.get(event.source_id, -1e9) >= _HEARTBEAT_SECONDS:
            self._last[event.source_id] = now
            status: dict[str, str | int | float] = {
                "state": "online",
                "epoch": event.epoch,
                "seconds": event.seconds,
                "faces": len(event.faces),
            }
            try:
                self._publisher.heartbeat(event.source_id, status)
            except PublishError as error:
                # Records wait for Redis to come back; a heartbeat that is late is of no use to anybody.
                log.warning("run.heartbeat_lost", extra={"source": event.source_id, "reason": str(error)})


@contextmanager
def stopping(pipeline: Pipeline) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end the run in order; a second SIGINT ends the process."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        pipeline.stop()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say_done(event: SourceDone) -> None:
    stats = event.stats
    if event.error is not None:
        complain(str(event.error))
        return
    how = "stopped" if event.stopped else "ended"
    words = [f"{stats.clips} clips of {stats.tracks} face tracks in {stats.seconds:.1f} s of video"]
    words += caption_words(stats)
    words += [f"{stats.frames_dropped} frames dropped (this machine was busy)"] if stats.frames_dropped else []
    words += [event.note] if event.note else []
    note(f"{event.source_id}: {how}; {'; '.join(words)}")


def caption_words(stats: SourceStats) -> list[str]:
    """Return what became of a source's captions, in words; nothing where none were asked for."""
    words = [f"{stats.captions} captions"] if stats.captions else []
    words += [f"{stats.captions_dropped} captions dropped (the captioner was busy)"] if stats.captions_dropped else []
    words += [f"{stats.captions_failed} captions failed"] if stats.captions_failed else []
    return words


def record_line(record: Record) -> str:
    """Return one readable line for any record."""
    from streamfer.records import ClipCaptioned, ClipLabelled, Gap, SourceStateChanged

    document = record.data
    if isinstance(document, ClipLabelled):
        face = document.faces[0]
        shown = f"{face.top:<9} {bar(face.emotions[face.top])}"
        return f"{_when(record)}  {record.subject}  {face.track_id}  {shown}"
    if isinstance(document, ClipCaptioned):
        return f"{_when(record)}  {record.subject}  {document.track_id}  “{document.text}”"
    if isinstance(document, SourceStateChanged):
        extra = f": {document.reason}" if document.reason else ""
        again = f" (attempt {document.attempt}, next in {document.delay:.1f} s)" if document.delay else ""
        return f"{_when(record)}  {record.subject}  {document.state}{extra}{again}"
    assert isinstance(document, Gap)  # noqa: S101  (the union has four members)
    return f"{_when(record)}  {record.subject}  gap: {document.count} {document.unit}, {document.cause}"


def _when(record: Record) -> str:
    """Return the capture time of day (local) of live records, the place in the file of others."""
    from streamfer.records import ClipCaptioned, ClipLabelled

    if isinstance(record.data, ClipLabelled | ClipCaptioned) and record.time is None:
        clip = record.data.clip
        return f"{clip.start_time:7.1f}–{clip.end_time:.1f} s"
    return (record.time or record.recordedtime).astimezone().strftime("%H:%M:%S.%f")[:-4]
