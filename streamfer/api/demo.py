"""Everything at once, on real faces, with nothing but this package: what ``streamfer demo`` shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamfer.api.session import Session
from streamfer.errors import InternalError, SourceUnreadableError
from streamfer.publish import Publisher, subscribe
from streamfer.records import ClipCaptioned, ClipLabelled, Record, SourceStateChanged
from streamfer.redaction import redact_url
from streamfer.video import write_video
from streamfer.video.demo_film import FPS, film

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What a demonstration found.

    Attributes:
        film: the video that was made.
        clips: labelled clips as a subscriber received them.
        captions: their descriptions, received in the same way.
        known: how many of both an earlier run had published; equal ids are stored once.
    """

    film: Path
    clips: tuple[Record, ...]
    captions: tuple[Record, ...]
    known: int


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
    path = Path(folder) / "demo.mp4"
    with Publisher.open(session.config.publish) as publisher:
        say(f"making {path} from pictures that scikit-image and insightface carry")
        write_video(path, film(), FPS)
        say(f"analysing, publishing to Redis at {redact_url(publisher.url)}")
        published, known = _publish(session, path, publisher)
        models = session.models()
        info = models.expression.info
        words = f", words by {models.writer.info.name}" if models.writer is not None else ""
        say(f"model {info.name} ({info.precision} on {info.device}), faces by {models.detector.name}{words}")
        received = _read_back(session, publisher, published)
    clips = tuple(record for record in received if isinstance(record.data, ClipLabelled))
    captions = tuple(record for record in received if isinstance(record.data, ClipCaptioned))
    return Demonstration(path, clips, captions, known)


def _publish(session: Session, path: Path, publisher: Publisher) -> tuple[list[Record], int]:
    """Publish every record of the film; return the clips and captions, and how many of them were there before."""
    published: list[Record] = []
    known = 0
    for record in session.stream(path):
        outcome = publisher.publish(record)
        if isinstance(record.data, SourceStateChanged) and record.data.state == "ended" and record.data.reason:
            # A stream goes on without a bad source; the demonstration has no other.
            raise SourceUnreadableError(f"{path}: {record.data.reason}")
        if isinstance(record.data, ClipLabelled | ClipCaptioned):
            published.append(record)
            known += outcome == "duplicate"
    return published, known


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
    ) as subscription:
        for record in subscription:
            if record.id in waiting:
                found[record.id] = record
            if len(found) == len(waiting):
                break
    if len(found) < len(waiting):
        raise InternalError(f"demo: {len(waiting) - len(found)} of {len(waiting)} published records did not come back")
    return [found[record.id] for record in published]
