"""Settings of a recipe: YAML files, overrides from the command line, and what may not change when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from streamfer.errors import CheckpointError, ConfigError


class Part(BaseModel):
    """A section of settings: unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_Config = TypeVar("_Config", bound=BaseModel)
#: PyYAML lets out what dates such as 2024-13-45 and tags such as !!bool x end in.
_NO_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError)


def load_settings(
    kind: type[_Config], path: Path, overrides: Sequence[str] = (), *, example: str, listing: str | None = None
) -> _Config:
    """Read a YAML file and settings of the form ``a.b=value`` (values in YAML).

    Args:
        kind: what the settings must be.
        path: the YAML file.
        overrides: settings that win over those of the file; of two for the same name the later one does.
        example: a file that shows how it is done, for messages.
        listing: where settings are listed, for messages, as in "'... --settings' lists them all"; else the example.

    Raises:
        ConfigError: the file is absent or no YAML, or a setting is unknown, missing or out of range.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(
            f"{path}: cannot be read ({reason}); name an existing file with -c, for example {example}"
        ) from error
    except _NO_YAML as error:
        raise ConfigError(f"{path}: is not YAML; compare it with {example}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no settings; compare it with {example}")
    for pair in overrides:
        put(values, pair)
    return parse_settings(kind, values, str(path), listing=listing or f"see {example}")


def parse_settings(kind: type[_Config], values: Mapping[str, Any], where: str, *, listing: str = "") -> _Config:
    """Check plain settings.

    Args:
        kind: what the settings must be.
        values: the settings.
        where: the file they are from, for messages.
        listing: where settings are listed, for messages.

    Raises:
        ConfigError: a setting is unknown, missing or out of range; the message names the first.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(f"{part}." for part in first["loc"]).removesuffix(".")
        message = first["msg"]
        # What a recipe's own checks say is an answer in itself; what pydantic says is worth a pointer.
        own = message.removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "no such setting"
        elif own != message:
            message, listing = own, ""
        else:
            message = message[:1].lower() + message[1:]
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        place = f"{where}: {name}" if name else where
        raise ConfigError(f"{place}: {message}{more}{f'; {listing}' if listing else ''}") from error


def put(values: dict[str, Any], pair: str) -> None:
    """Put one setting of the form ``a.b=value`` among plain settings; sections that are missing or empty appear.

    Raises:
        ConfigError: it has no name or no value, the value is no YAML, or its section is no section.
    """
    name, found, text = pair.partition("=")
    if not found:
        raise ConfigError(f"--set {pair}: has no '='; write {name or 'NAME'}=VALUE")
    *parents, last = name.split(".")
    if not all((*parents, last)):
        raise ConfigError(f"--set {pair}: has no name before '='; write SECTION.NAME=VALUE")
    place = values
    for parent in parents:
        inner = place[parent] = {} if place.get(parent) is None else place[parent]
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {pair}: {parent} holds a value, not settings; correct the name")
        place = inner
    try:
        place[last] = yaml.safe_load(text)
    except _NO_YAML as error:
        raise ConfigError(f"--set {pair}: {text!r} is not YAML; quote it") from error


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``("a.b", value)`` for each setting of a nested mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def first_difference(stored: Mapping[str, Any], asked: Mapping[str, Any], free: Sequence[str]) -> str | None:
    """Return a sentence about the first setting that differs and may not, or None.

    Args:
        stored: plain settings of an earlier run, as ``model_dump(mode="json")`` gives them.
        asked: those of now.
        free: settings and sections that may change.
    """
    before, now = dict(flatten(stored)), dict(flatten(asked))
    for name in [*now, *(name for name in before if name not in now)]:
        if name in free or name.startswith(tuple(f"{one}." for one in free)):
            continue
        if before.get(name) != now.get(name):
            return f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
    return None


def check_same(where: Path, stored: Mapping[str, Any], asked: Mapping[str, Any], free: Sequence[str]) -> None:
    """Refuse to continue a run under other settings; arguments as those of :func:`first_difference`.

    Raises:
        CheckpointError: naming the first setting that differs.
    """
    difference = first_difference(stored, asked, free)
    if difference is not None:
        raise CheckpointError(f"{where}: of another configuration: {difference}; restore it, or choose another --out")


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
