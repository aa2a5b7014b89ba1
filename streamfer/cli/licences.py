"""Licences of the models, said once to each user: the first time that the command line runs a model."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

from streamfer.cli.terminal import note
from streamfer.errors import OutputError

if TYPE_CHECKING:
    from streamfer.api import Session

_FILE = "licences.json"


def say_once(session: Session) -> None:
    """Say under which licences the loaded models came, as far as this user was not told; on a terminal only."""
    if not session.loaded or not sys.stderr.isatty():
        return
    from streamfer.files import write_whole
    from streamfer.models.registry import user_folder

    models = session.models()
    info, faces = models.expression.info, models.detector
    found = {info.name: info.licence, faces.name: faces.licence}
    if models.writer is not None:
        found[models.writer.info.name] = models.writer.info.licence
    path = user_folder().parent / _FILE
    told: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(path.read_text(encoding="utf-8"))
    new = {name: licence for name, licence in found.items() if told.get(name) != licence}
    if not new:
        return
    note(f"licences of the weights, said once: {'; '.join(f'{name}: {licence}' for name, licence in new.items())}")
    # Where nothing can be kept, it is said again.
    with contextlib.suppress(OutputError):
        write_whole(path, lambda stream: stream.write(json.dumps({**told, **new}, indent=2).encode()))
