"""Values that must be what their kinds say, settings and arguments alike: one line names the first that is not."""

from __future__ import annotations

import builtins
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, ParamSpec, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, create_model, field_validator

from streamfer.errors import ConfigError
from streamfer.redaction import redact_text, sounds_secret

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1000)]
Seconds = Annotated[float, Field(ge=0)]
_Settings = TypeVar("_Settings", bound=BaseModel)
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")
#: What pydantic puts behind a name for each kind that it may be of.
_ALTERNATIVES = ("str", "int", "float", "bool", "datetime")
#: Kinds of faults that pydantic names in words of its own.
_PLAINLY = {
    "missing": "is missing",
    "path_type": "should be a path",
    **dict.fromkeys(("model_type", "model_attributes_type", "dataclass_type"), "should be settings by their names"),
}


class Section(BaseModel):
    """A section of settings: unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _a_bool_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        kinds = [getattr(one, "__origin__", one) for one in (kind, *get_args(kind))]
        if isinstance(value, bool) and bool not in kinds and (int in kinds or float in kinds):
            raise ValueError("Input should be a number")
        return value


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
    # YAML has names that are numbers.
    named = {str(name): value for name, value in tree.items()} if isinstance(tree, Mapping) else tree
    try:
        return kind.model_validate(named)
    except ValidationError as error:
        raise refusal(kind, error, where, listing) from None


def refusal(kind: type[BaseModel], error: ValidationError, where: str = "", listing: str = "") -> ConfigError:
    """Return what :func:`check_settings` raises for what pydantic found."""
    first, *others = error.errors()
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):
        return ConfigError(f"{where}: {inner}" if where else str(inner))
    name = _named(first)
    # The kinds that the same one might have been are no others.
    more = sum(not other.startswith(name) for other in {*map(_named, others)})
    message = _PLAINLY.get(first["type"], first["msg"])
    own = message.removeprefix("Value error, ")
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
    return ConfigError(redact_text(f"{text}; {listing}" if listing else text))


def _named(one: Any) -> str:
    """Return the dotted name of what pydantic found, without the kinds that it may be of."""
    return ".".join(str(part) for part in one["loc"] if part not in _ALTERNATIVES and "[" not in str(part))


def _nearest(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return which known setting an unknown one may mean."""
    known = _known(kind, location[:-1])
    import difflib

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


class _Names(dict[str, Any]):
    """Names of a module; what only a type checker knows (``TYPE_CHECKING``) is anything."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)


def checked(function: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """Have a function get arguments that are what its annotations say; ConfigError names the first that cannot be."""
    signature = inspect.signature(function)

    @functools.cache
    def kinds() -> type[Section]:
        names, annotated = _Names(function.__globals__), function.__annotations__.items()
        # They are our own texts (PEP 563).
        known: dict[str, Any] = {name: (eval(kind, {}, names), ...) for name, kind in annotated if name != "return"}  # noqa: S307
        return create_model("Arguments", __base__=Section, **known)

    @functools.wraps(function)
    def call(*arguments: _Given.args, **named: _Given.kwargs) -> _Found:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        given = {name: bound.arguments[name] for name in kinds().model_fields}
        bound.arguments |= dict(check_settings(kinds(), given))
        return function(*bound.args, **bound.kwargs)

    return call
