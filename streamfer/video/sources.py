"""One door to every kind of source."""

from __future__ import annotations

from streamfer.video.files import FileSource
from streamfer.video.frames import Source
from streamfer.video.locate import SourceSpec


def open_source(spec: SourceSpec, *, decode_threads: int = 1) -> Source:
    """Return the source that reads ``spec``; nothing is opened before it is iterated."""
    return FileSource(spec, decode_threads=decode_threads)
