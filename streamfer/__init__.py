"""streamfer: video in, facial expressions out.

>>> import streamfer                                    # doctest: +SKIP
>>> annotation = streamfer.annotate("interview.mp4")    # doctest: +SKIP
>>> for clip in streamfer.stream("rtsp://camera/live"): # doctest: +SKIP
...     print(clip.faces[0].top)
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfer.build import load_models
    from streamfer.config import Config, load_config
    from streamfer.errors import StreamferError, UserError
    from streamfer.models import list_models, load_model
    from streamfer.pipeline.annotate import Annotation, annotate, stream
    from streamfer.publish import subscribe
    from streamfer.records import Record

__version__ = "0.2.0"

# A library says nothing unless who uses it configures logging.
logging.getLogger("streamfer").addHandler(logging.NullHandler())

#: Loaded on first use: ``import streamfer`` must not cost the seconds that torch takes.
_HOMES = {
    "Annotation": "streamfer.pipeline.annotate",
    "Config": "streamfer.config",
    "Record": "streamfer.records",
    "StreamferError": "streamfer.errors",
    "UserError": "streamfer.errors",
    "annotate": "streamfer.pipeline.annotate",
    "list_models": "streamfer.models",
    "load_config": "streamfer.config",
    "load_model": "streamfer.models",
    "load_models": "streamfer.build",
    "stream": "streamfer.pipeline.annotate",
    "subscribe": "streamfer.publish",
}

__all__ = [
    "Annotation",
    "Config",
    "Record",
    "StreamferError",
    "UserError",
    "annotate",
    "list_models",
    "load_config",
    "load_model",
    "load_models",
    "stream",
    "subscribe",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'streamfer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
