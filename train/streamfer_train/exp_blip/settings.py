"""Settings of a recipe: YAML files, overrides from the command line, and what may not change when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from streamfer.errors import ConfigError


class Part(BaseModel):
    """A section of settings: unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_Config = TypeVar("_Config", bound=BaseModel)


def load_settings(kind: type[_Config], path: Path, overrides: Sequence[str] = ()) -> _Config:
    """Read a YAML file and settings of the form ``a.b=value`` (values in YAML).

    Raises:
        ConfigError: the file is absent or no YAML, or a setting is unknown, missing or out of range.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read ({reason}); name an existing configuration file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML; compare it with the files in configs/train") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no settings; compare it with the files in configs/train")
    for pair in overrides:
        _put(values, pair)
    return parse_settings(kind, values, str(path))


def parse_settings(kind: type[_Config], values: Mapping[str, Any], where: str) -> _Config:
    """Check plain settings.

    Raises:
        ConfigError: a setting is unknown, missing or out of range; the message names the first.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "no such setting; --settings lists them all"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{where}: {name}: {message}{more}") from error


def _put(values: dict[str, Any], pair: str) -> None:
    name, found, text = pair.partition("=")
    if not found or not name:
        raise ConfigError(f"--set {pair}: has no '='; write NAME=VALUE, as in step1.epochs=10")
    *parents, last = name.split(".")
    place = values
    for parent in parents:
        inner = place[parent] = {} if place.get(parent) is None else place[parent]
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {pair}: {parent} holds a value, not settings; correct the name")
        place = inner
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {pair}: {text!r} is not YAML; quote it") from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def first_difference(stored: Mapping[str, Any], asked: Mapping[str, Any], free: Sequence[str]) -> str | None:
    """Return a sentence about the first setting that differs and may not, or None.

    Args:
        stored: plain settings of an earlier run.
        asked: those of now.
        free: settings and sections that may change.
    """
    before, now = dict(_flat(stored)), dict(_flat(asked))
    for name in [*now, *(name for name in before if name not in now)]:
        if name in free or name.startswith(tuple(f"{one}." for one in free)):
            continue
        if before.get(name) != now.get(name):
            return f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
    return None


def describe_settings(kind: type[BaseModel]) -> str:
    """Return every setting with its default as YAML; what must be given reads REQUIRED."""
    return yaml.safe_dump(_defaults(kind), sort_keys=False, allow_unicode=True)


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, entry in kind.model_fields.items():
        inner = entry.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and entry.is_required():
            values[name] = _defaults(inner)
        elif entry.is_required():
            values[name] = "REQUIRED"
        else:
            default = entry.get_default(call_default_factory=True)
            values[name] = _plain(default)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
