"""``streamfer demo``: everything at once, on real faces, with nothing but this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli import options
from streamfer.cli.terminal import caption_table, clip_table, note, out
from streamfer.errors import InternalError, OutputError

if TYPE_CHECKING:
    from streamfer.config import Config
    from streamfer.publish import Outcome, Publisher
    from streamfer.records import Record

_PATIENCE_SECONDS = 10.0


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the video.")] = Path("streamfer-demo"),
    redis: options.RedisUrl = None,
    model: options.Model = None,
    detector: options.Detector = None,
    captions: Annotated[
        bool, typer.Option(help="Also describe the faces in words, where a captioner is at hand.")
    ] = True,
    threads: options.Threads = None,
) -> None:
    """Make a short video with real faces from pictures that installed packages carry, and run everything on it.

    Decodes, detects, tracks, labels and describes the faces, publishes the records to a real Redis server (embedded
    unless --redis names one), reads them back as a subscriber, and shows them.
    """
    config = options.configure(
        None,
        {
            "publish.redis": redis,
            "model.name": model,
            "faces.detector": detector,
            "captions.model": _captioner() if captions else None,
            "threads": threads,
        },
    )
    from streamfer.cli.demo_film import FPS, film
    from streamfer.cli.publishing import follow_command, open_publisher, program
    from streamfer.records import ClipCaptioned
    from streamfer.video.encode import write_video

    publisher = open_publisher(config.publish)
    try:
        path = _folder(output) / "demo.mp4"
        note(f"making {path} from pictures that scikit-image and insightface carry")
        write_video(path, film(), FPS)
        note(f"analysing, publishing to Redis at {_place(publisher)}")
        published = _analyse(path, config, publisher)
        records = _read_back(publisher, config, [record for record, _ in published])
    finally:
        publisher.close()
    _show(records)
    known = sum(outcome != "new" for _, outcome in published)
    again = f" ({known} were there from an earlier run: equal ids are stored once)" if known else ""
    described = sum(isinstance(record.data, ClipCaptioned) for record in records)
    what = f"{len(records) - described} clips" + (f" and {described} captions" if described else "")
    out.print(f"\n{what} in Redis{again}. Read them again, or follow new ones:", soft_wrap=True)
    out.print(f"  {follow_command(config.publish, '--from', 'start', '--idle', '1')}", soft_wrap=True)
    out.print(f"  {follow_command(config.publish)}", soft_wrap=True)
    out.print(f"Label a video of your own:\n  {program()} annotate VIDEO", soft_wrap=True)


def _captioner() -> str | None:
    """Return the name of the built-in captioner, if there is one."""
    from streamfer.captions.registry import built_in_captioner, list_captioners

    return built_in_captioner(list_captioners())


def _show(records: list[Record]) -> None:
    """Print every clip, and what was said first of each face."""
    from streamfer.records import ClipCaptioned, ClipLabelled

    out.print(clip_table(record for record in records if isinstance(record.data, ClipLabelled)))
    first: dict[str, Record] = {}
    for record in records:
        if isinstance(record.data, ClipCaptioned):
            first.setdefault(record.data.track_id, record)
    if first:
        out.print()
        out.print(caption_table(first.values()))


def _folder(output: Path) -> Path:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{output}: no folder can be made ({error.strerror}); choose another with --output"
        ) from error
    return output


def _analyse(path: Path, config: Config, publisher: Publisher) -> list[tuple[Record, Outcome]]:
    """Publish every record of the film; return the labelled clips and captions with what became of them."""
    from streamfer.build import build_pipeline, load_models
    from streamfer.pipeline.events import SourceDone
    from streamfer.records import ClipCaptioned, ClipLabelled, Record
    from streamfer.video import find_sources, open_source

    models = load_models(config)
    pipeline = build_pipeline(config, models, live=False)
    published: list[tuple[Record, Outcome]] = []
    (spec,) = find_sources([str(path)])
    for event in pipeline.events([open_source(spec, decode_threads=models.budget.decode)]):
        if isinstance(event, SourceDone) and event.error is not None:
            raise event.error
        if isinstance(event, Record):
            outcome = publisher.publish(event)
            if isinstance(event.data, ClipLabelled | ClipCaptioned):
                published.append((event, outcome))
    info = models.expression.info
    words = f", words by {models.captioner.info.name}" if models.captioner is not None else ""
    note(f"model {info.name} ({info.precision} on {info.device}), faces by {models.detector.name}{words}")
    return published


def _read_back(publisher: Publisher, config: Config, published: list[Record]) -> list[Record]:
    """Return the published clips and captions as a subscriber receives them."""
    from streamfer.publish import subscribe

    waiting = {record.id for record in published}
    found: dict[str, Record] = {}
    if not waiting:
        return []
    with subscribe(
        publisher.url,
        streams=("clips", "captions"),
        from_="start",
        sources={record.subject for record in published},
        prefix=config.publish.prefix,
        partitions=config.publish.partitions,
        idle_s=_PATIENCE_SECONDS,
    ) as subscription:
        for record in subscription:
            if record.id in waiting:
                found[record.id] = record
            if len(found) == len(waiting):
                break
    if len(found) < len(waiting):
        raise InternalError(f"demo: {len(waiting) - len(found)} of {len(waiting)} published records did not come back")
    return [found[record.id] for record in published]


def _place(publisher: Publisher) -> str:
    from streamfer.redaction import redact_url

    return redact_url(publisher.url)
