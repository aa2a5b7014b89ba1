"""Settings: sections with limits, read from YAML and overridden by name; what is refused is named with a way out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from streamfer.arguments import check_settings
from streamfer.errors import ConfigError
from streamfer.redaction import sounds_secret

#: PyYAML lets out what dates such as 2024-13-45, tags such as !!bool x and a thousand brackets end in.
_NO_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError)
_Settings = TypeVar("_Settings", bound=BaseModel)


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
