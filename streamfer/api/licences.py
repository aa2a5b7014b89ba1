"""Licences of loaded models, and which of them this user was told of."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from streamfer.errors import OutputError

if TYPE_CHECKING:
    from streamfer.build import LoadedModels

_FILE = "licences.json"


def licences(models: LoadedModels | None) -> dict[str, str]:
    """Return the licence of each model by the model's name; nothing where none is loaded."""
    if models is None:
        return {}
    info, faces = models.expression.info, models.detector
    writer = {} if models.writer is None else {models.writer.info.name: models.writer.info.licence}
    return {info.name: info.licence, faces.name: faces.licence, **writer}


def told_now(models: LoadedModels) -> dict[str, str]:
    """Return those of :func:`licences` that this user was not told of yet, and remember that they are told now."""
    from streamfer.files import write_whole
    from streamfer.models.registry import user_folder

    path = user_folder().parent / _FILE
    told: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(path.read_text(encoding="utf-8"))
    new = {name: licence for name, licence in licences(models).items() if told.get(name) != licence}
    if new:
        # Where nothing can be kept, it is told again.
        with contextlib.suppress(OutputError):
            write_whole(path, lambda stream: stream.write(json.dumps({**told, **new}, indent=2).encode()))
    return new
