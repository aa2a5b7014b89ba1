"""What results depend on, known before anything is loaded: equal settings and equal bytes, equal results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from streamfer.config import Config
from streamfer.export.job import Settings
from streamfer.files import sha256_of


def settings_of(config: Config, *more: object) -> Settings:
    """Return what the results of a configuration depend on; a secret among it cannot be read from it.

    Args:
        config: the configuration.
        more: what else decides what stands in them.

    Raises:
        UnknownModelError: there is no such expression model.
    """
    from streamfer.models.registry import find_model

    relevant = config.model_dump_json(
        include={"sampling": True, "clip": True, "faces": True, "model": {"device", "precision"}}
    )
    # Said only where it was set, so that what was made before stays done.
    said = {"purpose": config.purpose} if config.purpose else {}
    said |= {} if config.model.emotions else {"emotions": "withheld"}
    more += (said,) if said else ()
    digest = hashlib.sha256(f"{relevant}{more!r}".encode()).hexdigest()[:16]
    values = {**json.loads(relevant), "model": config.model.name, **said}
    model = sha256_of(find_model(config.model.name))
    return Settings(digest, model, _detector(config.faces.detector), (), values=values)


def _detector(name: str) -> str:
    """Return what tells one detector from another: the digest of its file where there is one to see, else its name."""
    from streamfer.faces.registry import builtin_weights

    path = builtin_weights() if name in ("auto", "builtin") else Path(name).expanduser()
    return sha256_of(path) if path.is_file() else name
