"""What results depend on, known before anything is loaded: equal settings and equal bytes, equal results."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from streamfer.config import Config
from streamfer.errors import ConfigError, SourceError
from streamfer.export.job import Settings
from streamfer.files import sha256_of
from streamfer.redaction import redact_url
from streamfer.video.locate import ALLOWED_SCHEMES, Place, SourceSpec, find_each, placed, with_unique_ids


def settings_of(
    config: Config, salt: str | None = None, raw_size: tuple[int, int] | None = None, raw_fps: float | None = None
) -> Settings:
    """Return what results depend on (UnknownModelError: no such model); a secret among it cannot be read from it."""
    from streamfer.models.registry import find_model

    relevant = config.model_dump_json(
        include={"sampling": True, "clip": True, "faces": True, "model": {"device", "precision"}}
    )
    captions = config.captions
    more: list[Any] = [salt, raw_size, raw_fps]
    if captions.when != "off":
        from streamfer.captions.choosing import identity

        more += captions.when, captions.interval, captions.keyframes, captions.max_faces, identity(captions)
    # Said only where it was set, so that what was made before stays done.
    said = {"purpose": config.purpose} if config.purpose else {}
    said |= {} if config.model.emotions else {"emotions": "withheld"}
    more += (said,) if said else ()
    digest = hashlib.sha256(f"{relevant}{tuple(more)!r}".encode()).hexdigest()[:16]
    values = {**json.loads(relevant), "model": config.model.name, **said}
    model = sha256_of(find_model(config.model.name))
    return Settings(digest, model, _detector(config.faces.detector), (), values=values)


def _detector(name: str) -> str:
    """Return what tells one detector from another: the digest of its file where there is one to see, else its name."""
    from streamfer.faces.registry import builtin_weights, centerface_file, own_name

    packaged = {"builtin": builtin_weights(), "centerface": centerface_file()}
    path = packaged.get(own_name(name)) or Path(name).expanduser()
    return sha256_of(path) if path.is_file() else name


def find_files(
    places: Sequence[str], raw_size: tuple[int, int] | None, raw_fps: float | None, *, buckets: bool
) -> tuple[list[SourceSpec], dict[str, SourceError]]:
    """Return sources to be read to their ends, size and rate of those without a header given, and what is not there."""
    far = [place for place in places if buckets and is_bucket(place)]
    specs, missing = find_each([place for place in places if place not in far])
    for place in far:
        from streamfer.export.bucket import Bucket

        try:
            specs += Bucket(place).find()
        except SourceError as error:
            missing[redact_url(place)] = error
    specs = with_unique_ids(specs)
    rate = None if raw_fps is None else Fraction(raw_fps).limit_denominator(1001)
    changed: dict[str, Any] = {name: value for name, value in (("raw_size", raw_size), ("raw_fps", rate)) if value}
    return [replace(spec.whole(), **changed) for spec in specs], missing


def is_bucket(place: str) -> bool:
    """Whether a place is a URL that fsspec alone may know."""
    scheme, mark, _ = place.partition("://")
    return bool(mark) and scheme.lower() not in ALLOWED_SCHEMES


def output_of(output: Place, *, buckets: bool) -> tuple[Path, str]:
    """Return the folder that results are written into, and the bucket that they go to from there, if any.

    Raises:
        ConfigError: a bucket, where none is served, or an empty path.
    """
    place = placed(output, "output")
    if not is_bucket(place):
        return Path(place), ""
    if not buckets:
        raise ConfigError(f"{redact_url(place)}: no folder; results go to buckets from a cluster (--ray)")
    return Path(tempfile.gettempdir(), f"streamfer-{uuid.uuid4().hex}"), place


def check_secrecy(config: Config, settings: Settings) -> None:
    """Refuse (ConfigError) to blur faces here and to show them to a server."""
    captions = config.captions
    sent = captions.when != "off" and captions.images != "none" and captions.model.startswith("openai:")
    if sent and settings.blurred != "off":
        raise ConfigError(f"blur_faces: {captions.model} would be sent pictures of the faces; set captions.images=none")
