"""Expression models: architectures, weights, and the seam that the pipeline drives them through.

torch takes seconds to import, so the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfer.models.attention import choose_attention
    from streamfer.models.expression import ExpressionModel, ModelInfo
    from streamfer.models.import_official import import_checkpoint
    from streamfer.models.loading import load_model
    from streamfer.models.precision import choose_device, choose_precision
    from streamfer.models.registry import list_models

_HOMES = {
    "ExpressionModel": "streamfer.models.expression",
    "ModelInfo": "streamfer.models.expression",
    "choose_attention": "streamfer.models.attention",
    "choose_device": "streamfer.models.precision",
    "choose_precision": "streamfer.models.precision",
    "import_checkpoint": "streamfer.models.import_official",
    "list_models": "streamfer.models.registry",
    "load_model": "streamfer.models.loading",
}

__all__ = [
    "ExpressionModel",
    "ModelInfo",
    "choose_attention",
    "choose_device",
    "choose_precision",
    "import_checkpoint",
    "list_models",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
