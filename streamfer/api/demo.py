"""Everything at once, on real faces, with nothing but this package: what ``streamfer demo`` shows."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from streamfer.api.session import Session
from streamfer.errors import InternalError
from streamfer.pipeline.reports import this_producer
from streamfer.publish import Publisher, subscribe
from streamfer.records import ClipCaptioned, ClipLabelled, Record
from streamfer.redaction import redact_url
from streamfer.video import write_video
from streamfer.video.demo_film import FPS, film
from streamfer.video.locate import placed

if TYPE_CHECKING:
    from streamfer.export.annotation import Annotation

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What a demonstration found."""

    film: Path  #: the video that was made
    overlay: Path  #: and report: the video with what was found drawn in, and a page of it
    report: Path
    clips: tuple[Record, ...]  #: labelled clips as a subscriber received them
    captions: tuple[Record, ...]  #: their descriptions, received in the same way
    known: int  #: how many of both an earlier run had published; equal ids are stored once


def demonstrate(
    session: Session, folder: str | os.PathLike[str] = "streamfer-demo", say: Callable[[str], None] | None = None
) -> Demonstration:
    """Make a film from pictures that installed packages carry, analyse it, publish its records and read them back.

    Args:
        session: whose models and whose Redis are used; an embedded server where it names none.
        folder: where the film goes.
        say: called with a line before each step.

    Raises:
        MissingExtraError: the package that carries one of the pictures is not installed.
        PublishError: Redis refuses or is away.
    """
    say = say or (lambda _line: None)
    path = Path(placed(folder, "output")) / "demo.mp4"
    with Publisher.open(session.config.publish) as publisher:
        # A model that is missing or damaged is told before there is a film.
        models = session.models()
        say(f"making {path} from pictures that scikit-image and insightface carry")
        write_video(path, film(), FPS)
        say(f"analysing, publishing to Redis at {redact_url(publisher.url)}")
        annotation = session.annotate(path)
        published, known = _publish(annotation, publisher)
        info = models.expression.info
        words = f", words by {models.writer.info.name}" if models.writer is not None else ""
        say(f"model {info.name} ({info.precision} on {info.device}), faces by {models.detector.name}{words}")
        received = _read_back(session, publisher, published)
    say("drawing the overlay and the report")
    made = {"".join(file.suffixes): file for file in annotation.save(path.parent, formats=["html"], overlay=True)}
    clips = tuple(record for record in received if isinstance(record.data, ClipLabelled))
    captions = tuple(record for record in received if isinstance(record.data, ClipCaptioned))
    return Demonstration(path, made[".mp4.overlay.mp4"], made[".mp4.html"], clips, captions, known)


def play(session: Session, found: Demonstration, stop: threading.Event) -> None:
    """Publish the records of a demonstration as if its film ran now, again and again, until ``stop``."""
    shown = sorted((*found.clips, *found.captions), key=lambda record: record.data.clip.end_time)  # type: ignore[union-attr]
    with Publisher.open(session.config.publish) as publisher:
        while not stop.is_set():
            begun, producer = time.monotonic(), this_producer(session.config.purpose)
            publisher.heartbeat({found.clips[0].subject: {"state": "online"}})
            for record in shown:
                if stop.wait(max(0.0, begun + record.data.clip.end_time - time.monotonic())):  # type: ignore[union-attr]
                    return
                data = record.data.model_copy(update={"producer": producer})  # type: ignore[union-attr]
                now = datetime.now(UTC)
                publisher.publish(replace(record, id=uuid.uuid4().hex, data=data, recordedtime=now, sequence=None))


def _publish(annotation: Annotation, publisher: Publisher) -> tuple[list[Record], int]:
    """Publish every record of the film; return the clips and captions, and how many of them were there before."""
    outcomes = [(event, publisher.publish(event)) for event in annotation.events if isinstance(event, Record)]
    kept = [(record, said) for record, said in outcomes if isinstance(record.data, ClipLabelled | ClipCaptioned)]
    return [record for record, _ in kept], sum(said == "duplicate" for _, said in kept)


def _read_back(session: Session, publisher: Publisher, published: list[Record]) -> list[Record]:
    """Return what was published as a subscriber receives it."""
    waiting = {record.id for record in published}
    found: dict[str, Record] = {}
    if not waiting:
        return []
    with subscribe(
        publisher.url,
        streams=("clips", "captions"),
        since="start",
        sources={record.subject for record in published},
        prefix=session.config.publish.prefix,
        partitions=session.config.publish.partitions,
        idle_s=_PATIENCE_SECONDS,
        # Of earlier demonstrations, whose records lie there too, nobody asks.
        on_lost=lambda _lost: None,
    ) as subscription:
        for record in subscription:
            if record.id in waiting:
                found[record.id] = record
            if len(found) == len(waiting):
                break
    if len(found) < len(waiting):
        raise InternalError(f"demo: {len(waiting) - len(found)} of {len(waiting)} published records did not come back")
    return [found[record.id] for record in published]
