"""Settings: sections with limits, read from YAML and overridden by name; what is refused is named with a way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from streamfer.errors import ConfigError
from streamfer.redaction import redact_text, sounds_secret

#: PyYAML lets out what dates such as 2024-13-45 and tags such as !!bool x end in.
_NO_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError)
_Settings = TypeVar("_Settings", bound=BaseModel)


class Section(BaseModel):
    """A section of settings: unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Once(yaml.SafeLoader):
    """Reads plain YAML, and refuses a name that stands twice, of which YAML's readers silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read one level of names."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_settings(path: Path, example: str) -> dict[str, Any]:
    """Read a YAML file of sections; one with nothing in it, or nothing below its name, stands for its defaults.

    Args:
        path: the file.
        example: a file that shows how it is done, for messages.

    Raises:
        ConfigError: no such file, or none of sections.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Once)  # noqa: S506 (a safe loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; {example} is an example") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read ({reason}); {example} is an example") from error
    except _NO_YAML as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        if isinstance(error, yaml.MarkedYAMLError) and "twice" in str(error.problem):
            raise ConfigError(f"{path}: {error.problem}{place}; leave one of them") from None
        raise ConfigError(f"{path}: not valid YAML{place}; compare it with {example}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds a {type(tree).__name__}; expected sections of settings, as in {example}")
    return {name: section for name, section in tree.items() if section is not None}


def read_value(name: str, text: str) -> Any:
    """Return one value written as YAML: ``0.5``, ``true``, ``null``, ``rtsp://camera/live``.

    Args:
        name: where it was written, for the message.
        text: the value.

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except _NO_YAML:
        shown = "..." if "://" in text or sounds_secret(name) else text
        raise ConfigError(f"{name}={shown}: the value is not valid YAML; quote it") from None


def read_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the dotted names and values of ``--set NAME=VALUE``; of two for the same name the later one wins.

    Raises:
        ConfigError: a pair has no name or no value, or the value is no YAML.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: has no '='; write {name or 'NAME'}=VALUE")
        if not all(name.split(".")):
            raise ConfigError(f"--set {pair}: has no name before '='; write SECTION.NAME=VALUE")
        found.pop(name, None)
        found[name] = read_value(f"--set {name}", text)
    return found


def put(tree: dict[str, Any], name: str, value: Any) -> None:
    """Put a setting among others under its dotted name; sections that are missing or empty appear.

    Raises:
        ConfigError: what should be its section is a value.
    """
    *sections, last = name.split(".")
    for place, section in enumerate(sections, start=1):
        inner = tree[section] = {} if tree.get(section) is None else tree[section]
        if not isinstance(inner, dict):
            raise ConfigError(f"{name}: {'.'.join(sections[:place])} holds a value, not settings; correct the name")
        tree = inner
    tree[last] = value


def check_settings(kind: type[_Settings], tree: Mapping[str, Any], where: str = "", listing: str = "") -> _Settings:
    """Return plain settings as what they must be.

    Args:
        kind: what they must be.
        tree: the settings.
        where: the file they are from, for messages.
        listing: where settings are listed, for messages, as in "'... --settings' lists them all".

    Raises:
        ConfigError: a setting is unknown, missing or out of range; the message names the first.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first, more = error.errors()[0], error.error_count() - 1
        name = ".".join(str(part) for part in first["loc"])
        message, own = first["msg"], first["msg"].removeprefix("Value error, ")
        shown = isinstance(first["input"], str | int | float | bool) and not sounds_secret(name)
        notes = [f"got {first['input']!r}"] if shown else []
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            message, notes = f"unknown setting; {_nearest(kind, first['loc'])}", []
        elif first["type"] in ("tuple_type", "list_type"):
            message = f"{message}, as [one, two]"
        elif first["type"] == "string_pattern_mismatch":
            body = first["ctx"]["pattern"]
            odd = "".join(dict.fromkeys(one for one in first["input"] if not re.search(body, f"aa{one}")))
            message = f"may not hold {odd!r}" if odd else "may not begin so, or has not the length that it must have"
        elif own != message:
            # What a section's own checks say is an answer in itself.
            message, listing = own, ""
        notes += [f"{more} more"] if more else []
        parts = (where, name or ("" if where else "configuration"), message)
        text = ": ".join(filter(None, parts)) + (f" ({'; '.join(notes)})" if notes else "")
        raise ConfigError(redact_text(f"{text}; {listing}" if listing else text)) from None


def _nearest(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return which known setting an unknown one may mean."""
    known = _known(kind, location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"


def _known(kind: Any, section: Sequence[int | str]) -> list[str]:
    """Return the names in a section; of a list of sections those of its entries."""
    for name in section:
        if isinstance(name, str) and name in kind.model_fields:
            annotation = kind.model_fields[name].annotation
            inner = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
            kind = next((one for one in inner if issubclass(one, BaseModel) or is_dataclass(one)), kind)
    return [field.name for field in fields(kind)] if is_dataclass(kind) else list(kind.model_fields)


def load_settings(
    kind: type[_Settings], path: Path, pairs: Sequence[str] = (), *, example: str, listing: str = ""
) -> _Settings:
    """Read a YAML file and settings of the form ``a.b=value`` (values in YAML), which win over those of the file.

    Args:
        kind: what the settings must be.
        path: the YAML file.
        pairs: of ``--set``.
        example: a file that shows how it is done, for messages.
        listing: where settings are listed, for messages; else the example.

    Raises:
        ConfigError: the file is absent or no YAML, or a setting is unknown, missing or out of range.
    """
    tree = read_settings(path, example)
    for name, value in read_pairs(pairs).items():
        put(tree, name, value)
    return check_settings(kind, tree, str(path), listing or f"see {example}")


def describe_settings(kind: type[BaseModel]) -> str:
    """Return every setting with its default as YAML; what must be given reads REQUIRED."""
    return yaml.safe_dump(_defaults(kind), sort_keys=False, allow_unicode=True)


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    values = kind.model_construct().model_dump(mode="json", warnings=False)
    for name, entry in kind.model_fields.items():
        if entry.is_required():
            inner = entry.annotation
            values[name] = "REQUIRED"
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                values[name] = _defaults(inner)
    return {name: values[name] for name in kind.model_fields}
