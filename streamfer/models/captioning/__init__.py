"""Captioners: Exp-BLIP, Exp-VQA and stand-ins behind :class:`streamfer.models.captioner.Captioner`.

transformers takes seconds to import, so the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfer.models.captioning.fake import FakeCaptioner
    from streamfer.models.captioning.importing import import_lavis
    from streamfer.models.captioning.loading import load_captioner
    from streamfer.models.captioning.registry import find_captioner, list_captioners

_HOMES = {
    "FakeCaptioner": "streamfer.models.captioning.fake",
    "find_captioner": "streamfer.models.captioning.registry",
    "import_lavis": "streamfer.models.captioning.importing",
    "list_captioners": "streamfer.models.captioning.registry",
    "load_captioner": "streamfer.models.captioning.loading",
}

__all__ = ["FakeCaptioner", "find_captioner", "import_lavis", "list_captioners", "load_captioner"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
