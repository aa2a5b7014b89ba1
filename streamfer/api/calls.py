"""One function for each deed of a session, with a session of its own: what most programs need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from streamfer.api.session import Session
from streamfer.config import Config
from streamfer.video.locate import Place

if TYPE_CHECKING:
    from streamfer.captions.asking import Answer
    from streamfer.export.annotation import Annotation
    from streamfer.export.batch import BatchReport
    from streamfer.records import Record
    from streamfer.video.given import GivenFrames


def annotate(
    path: Place, config: Config | Place | None = None, *, salt: str | None = None, **settings: Any
) -> Annotation:
    """Annotate one file: :meth:`Session.annotate` of a session of its own.

    >>> annotate("interview.mp4", model="dfew", clip__stride=0.5).clips    # doctest: +SKIP
    """
    with Session(config, salt=salt, **settings) as session:
        return session.annotate(path)


def annotate_folder(
    paths: Place | Sequence[Place],
    output: Place = "annotations",
    config: Config | Place | None = None,
    *,
    formats: str | Iterable[str] = ("csv", "jsonl"),
    overlay: bool = False,
    blur_faces: bool = False,
    overwrite: bool = False,
    redis: str | None = None,
    salt: str | None = None,
    **settings: Any,
) -> BatchReport:
    """Annotate files and folders: :meth:`Session.annotate_folder` of a session of its own.

    >>> annotate_folder("interviews/", "tables/", overlay=True, blur_faces=True)    # doctest: +SKIP
    BatchReport(12 done, 0 already done, 0 failed, 0 to do; tables)
    """
    with Session(config, salt=salt, **settings) as session:
        return session.annotate_folder(
            paths,
            output,
            formats=formats,
            overlay=overlay,
            blur_faces=blur_faces,
            overwrite=overwrite,
            redis=redis,
        )


def stream(
    sources: Place | Sequence[Place] | None = None,
    config: Config | Place | None = None,
    *,
    frames: GivenFrames | None = None,
    frame_rate: float | None = None,
    **settings: Any,
) -> Iterator[Record]:
    """Yield the records of sources as they are complete: :meth:`Session.stream` of a session of its own.

    >>> for record in stream(["rtsp://camera/live", "film.mp4"]):    # doctest: +SKIP
    ...     print(record.subject, record.type)
    """
    session = Session(config, **settings)
    records = session.stream(sources, frames=frames, frame_rate=frame_rate)

    def held() -> Iterator[Record]:
        with session:
            yield from records

    return held()


def ask(
    path: Place,
    question: str,
    config: Config | Place | None = None,
    *,
    track: int | None = None,
    at: float | None = None,
    in_words: bool = False,
    **settings: Any,
) -> Answer:
    """Ask about a face of a video or picture: :meth:`Session.ask` of a session of its own.

    >>> ask("interview.mp4", "Is the person smiling?").probability    # doctest: +SKIP
    0.93
    """
    with Session(config, **settings) as session:
        return session.ask(path, question, track=track, at=at, in_words=in_words)
