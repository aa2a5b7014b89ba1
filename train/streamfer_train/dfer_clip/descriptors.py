"""What the text tower reads about each class: names, names in a sentence, or descriptions of the face.

The descriptions, in ``descriptors.toml``, are in our own words: they name the same visible cues as the publication's
(its section 3.2), but other tokens. The authors' own words are read from their file, models/Text.py, as literals;
nothing in it runs.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from streamfer.errors import ConfigError
from streamfer.files import table_beside
from streamfer.models.vocabulary import canonical

TextType = Literal["class_names", "class_names_with_context", "class_descriptor"]

_READERS: dict[str, Callable[[str], Any]] = {".py": ast.parse, ".json": json.loads}  # anything else is YAML

#: Words for a class in prompts, where they differ from its name.
_NAMES = {"neutral": "a neutral face"}

#: What can be seen in a face, for each class of the authors' datasets.
DESCRIPTORS: dict[str, str] = table_beside(__file__)


def prompts(classes: Sequence[str], kind: TextType, overrides: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the text of each class's prompt, in the order of ``classes``.

    Args:
        kind: ``class_names`` ("happiness."), ``class_names_with_context`` ("an expression of happiness."), or
            ``class_descriptor``.
        overrides: texts of one's own by class, whatever ``kind`` is.

    Raises:
        ConfigError: an override for a class that does not exist, or a class without a description.
    """
    own = dict(overrides or {})
    if unknown := sorted(own.keys() - set(classes)):
        raise ConfigError(f"text.descriptors: {unknown[0]!r} is none of the classes {', '.join(classes)}")
    return tuple(own.get(name) or _text(name, kind) for name in classes)


def _text(name: str, kind: TextType) -> str:
    if kind == "class_names":
        return f"{name}."
    if kind == "class_names_with_context":
        return f"an expression of {_NAMES.get(name, name)}."
    if name.lower() not in DESCRIPTORS:
        raise ConfigError(
            f"text.descriptors: no description of {name!r}; add one there, or set text.type: class_names_with_context"
        )
    return DESCRIPTORS[name.lower()]


def text_digest(texts: Sequence[str]) -> str:
    """Return a sha256 (hex) of the prompts' texts in the order of the classes: equal texts train equal prompts."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def read_descriptors(path: Path, classes: Sequence[str], kind: TextType) -> dict[str, str]:
    """Return each class's text from the authors' ``Text.py``, or from a JSON or YAML file of texts by class.

    Of ``Text.py`` the list of ``kind`` and of as many classes is taken, in the order of its own list of names.

    Raises:
        ConfigError: absent, of another form, with anything but lists of texts in it, or without one of the classes.
    """
    try:
        contents = path.read_text(encoding="utf-8")
        found = _READERS.get(path.suffix, yaml.safe_load)(contents)
    except (OSError, ValueError, SyntaxError, yaml.YAMLError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise ConfigError(f"text.descriptors: {path}: cannot be read ({reason}); give the authors' Text.py") from error
    if isinstance(found, ast.Module):
        found = _of_lists(path, contents, found, len(classes), kind)
    if not isinstance(found, dict) or not all(isinstance(text, str) and text.strip() for text in found.values()):
        raise ConfigError(f"text.descriptors: {path}: must hold a text for each class, as in fear: raised eyebrows.")
    known = {canonical(str(name)): text for name, text in found.items()}
    if lacking := [name for name in classes if canonical(name) not in known]:
        raise ConfigError(f"text.descriptors: {path}: has no text of {lacking[0]!r}; it knows {', '.join(known)}")
    return {name: known[canonical(name)] for name in classes}


def _of_lists(path: Path, source: str, tree: ast.Module, count: int, kind: TextType) -> dict[str, Any]:
    lists: dict[str, list[str]] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign([ast.Name(id=name)], ast.List(elts=[*items])) if all(
                isinstance(item, ast.Constant) and isinstance(item.value, str) for item in items
            ):
                lists[name] = ast.literal_eval(statement.value)
            case ast.Expr(ast.Constant()):
                pass
            case _:
                line = source.splitlines()[statement.lineno - 1].strip()
                raise ConfigError(
                    f"text.descriptors: {path}, line {statement.lineno}: {line!r} is more than a list of texts; "
                    "nothing was run: give the authors' models/Text.py as it is"
                )
    names, texts = lists.get(f"class_names_{count}"), lists.get(f"{kind}_{count}")
    if names is None or texts is None or len(names) != count or len(texts) != count:
        raise ConfigError(f"text.descriptors: {path}: has no lists class_names_{count} and {kind}_{count} of {count}")
    return dict(zip((name.rstrip(".") for name in names), texts, strict=True))
