"""One door to every kind of source."""

from __future__ import annotations

from typing import Literal

from streamfer.video.files import FileSource
from streamfer.video.frames import Source
from streamfer.video.live import Backoff, LiveSource
from streamfer.video.locate import SourceSpec


def open_source(
    spec: SourceSpec,
    *,
    decode_threads: int = 1,
    transport: Literal["tcp", "udp"] = "tcp",
    open_timeout: float = 20.0,
    stall_seconds: float | None = None,
    first_open: Literal["fail", "retry"] = "fail",
    backoff: Backoff | None = None,
) -> Source:
    """Return the source that reads ``spec``; nothing is opened before it is iterated.

    The settings after ``open_timeout`` (seconds) matter to live sources only: see
    :class:`streamfer.video.live.LiveSource`.
    """
    if not spec.live:
        return FileSource(spec, decode_threads=decode_threads, timeout=open_timeout)
    return LiveSource(
        spec,
        decode_threads=decode_threads,
        transport=transport,
        open_timeout=open_timeout,
        stall_seconds=stall_seconds,
        first_open=first_open,
        backoff=backoff,
    )
