"""``streamfer demo``: everything at once, on real faces, with nothing but this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli import options
from streamfer.cli.terminal import console, note
from streamfer.errors import InternalError

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.publish import Publisher
    from streamfer.records import Record

_PATIENCE_SECONDS = 10.0


@options.opens_session("redis", "captions", "captioner", "model", "detector", "threads", captions="changes")
def demo(
    session: Session,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the video.")] = Path(
        "streamfer-demo"
    ),
) -> None:
    """Make a short video with real faces from pictures that installed packages carry, and run everything on it.

    Decodes, detects, tracks, labels and describes the faces, publishes the records to a real Redis server (embedded
    unless --redis names one), reads them back as a subscriber, and shows them.
    """
    from streamfer.cli.demo_film import FPS, film
    from streamfer.cli.publishing import follow_command, program
    from streamfer.publish import open_publisher
    from streamfer.records import ClipCaptioned
    from streamfer.redaction import redact_url
    from streamfer.video import write_video

    path = output / "demo.mp4"
    with session, open_publisher(session.config.publish) as publisher:
        note(f"making {path} from pictures that scikit-image and insightface carry")
        write_video(path, film(), FPS)
        note(f"analysing, publishing to Redis at {redact_url(publisher.url)}")
        published, known = _publish(session, path, publisher)
        records = _read_back(session, publisher, published)
    _show(records)
    again = f" ({known} were there from an earlier run: equal ids are stored once)" if known else ""
    described = sum(isinstance(record.data, ClipCaptioned) for record in records)
    what = f"{len(records) - described} clips" + (f" and {described} captions" if described else "")
    typer.echo(f"\n{what} in Redis{again}. Read them again, or follow new ones:")
    typer.echo(f"  {follow_command(session.config.publish, '--from', 'start', '--idle', '1')}")
    typer.echo(f"  {follow_command(session.config.publish)}")
    typer.echo(f"Label a video of your own:\n  {program()} annotate VIDEO")


def _publish(session: Session, path: Path, publisher: Publisher) -> tuple[list[Record], int]:
    """Publish every record of the film; return the clips and captions, and how many of them were there before."""
    from streamfer.errors import SourceUnreadableError
    from streamfer.records import ClipCaptioned, ClipLabelled, SourceStateChanged

    published: list[Record] = []
    known = 0
    for record in session.stream(path):
        outcome = publisher.publish(record)
        if isinstance(record.data, SourceStateChanged) and record.data.state == "ended" and record.data.reason:
            # A stream goes on without a bad source; the demo has no other.
            raise SourceUnreadableError(f"{path}: {record.data.reason}")
        if isinstance(record.data, ClipLabelled | ClipCaptioned):
            published.append(record)
            known += outcome == "duplicate"
    models = session.models()
    info = models.expression.info
    words = f", words by {models.writer.info.name}" if models.writer is not None else ""
    note(f"model {info.name} ({info.precision} on {info.device}), faces by {models.detector.name}{words}")
    return published, known


def _read_back(session: Session, publisher: Publisher, published: list[Record]) -> list[Record]:
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
        prefix=session.config.publish.prefix,
        partitions=session.config.publish.partitions,
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


def _show(records: list[Record]) -> None:
    """Print every clip, and what was said first of each face."""
    from streamfer.cli.tables import caption_table, clip_table
    from streamfer.records import ClipCaptioned, ClipLabelled

    console().print(clip_table(record for record in records if isinstance(record.data, ClipLabelled)))
    first: dict[str, Record] = {}
    for record in records:
        if isinstance(record.data, ClipCaptioned):
            first.setdefault(record.data.track_id, record)
    if first:
        typer.echo()
        console().print(caption_table(first.values()))
