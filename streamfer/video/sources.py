"""One door to every kind of source."""

from __future__ import annotations

from streamfer.config import LiveConfig
from streamfer.video.files import FileSource
from streamfer.video.frames import Source
from streamfer.video.live import LiveSource
from streamfer.video.locate import SourceSpec


def open_source(
    spec: SourceSpec, live: LiveConfig | None = None, *, decode_threads: int = 1, gpu: int | None = None
) -> Source:
    """Return the source that reads ``spec``; nothing is opened before it is iterated.

    Args:
        spec: what to open, from :func:`streamfer.video.locate.find_sources`.
        live: how long to wait and how to come back; of files, which may lie on a server, only ``open_timeout``
            counts. The defaults if unset.
        gpu: number of the GPU that decodes what it can; None: the CPU does.
    """
    live = live or LiveConfig()
    if not spec.live:
        return FileSource(spec, decode_threads=decode_threads, timeout=live.open_timeout, gpu=gpu)
    own = {name: getattr(spec, name) for name in ("transport", "open_timeout", "stall_timeout")}
    settings = live.model_copy(update={name: value for name, value in own.items() if value is not None})
    return LiveSource(spec, settings, decode_threads=decode_threads, gpu=gpu)
