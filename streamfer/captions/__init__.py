"""Captioners: Exp-BLIP, Exp-VQA and any other behind :class:`streamfer.captions.protocol.Captioner`.

transformers takes seconds to import, so the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfer.captions.folder import find_captioner, list_captioners
    from streamfer.captions.importing import import_lavis
    from streamfer.captions.loading import load_captioner

_HOMES = {
    "find_captioner": "streamfer.captions.folder",
    "import_lavis": "streamfer.captions.importing",
    "list_captioners": "streamfer.captions.folder",
    "load_captioner": "streamfer.captions.loading",
}

__all__ = ["find_captioner", "import_lavis", "list_captioners", "load_captioner"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
