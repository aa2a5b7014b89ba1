"""Options that several commands share, and how they become a configuration or a session."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from streamfer.faces.registry import ENTRIES

if TYPE_CHECKING:
    from streamfer.config import Config

    Command = Callable[..., None]

_DETECTORS = ", ".join(entry.name for entry in ENTRIES if not entry.pack)


def path(text: str) -> Path:
    """Return a path that was typed; an empty one, as of a variable that is not set, would be the folder of now."""
    if not text:
        raise typer.BadParameter("is empty; name a file or folder")
    return Path(text)


ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", parser=path, metavar="FILE", help="YAML file, like configs/run.yaml.")
]
RedisUrl = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="redis://, rediss://, unix:// (embedded).")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting: clip.max_gap=0.5; repeatable."),
]


def _mode(whole: bool | None) -> str | None:
    return "whole" if whole else None


def option(kind: Any, flags: str, metavar: str | None, words: str, **more: Any) -> Any:
    """Return the annotation of a parameter that is None where the option is not given."""
    typed = {"parser": path, **more} if kind is Path else more
    return Annotated[kind | None, typer.Option(*flags.split(), metavar=metavar, help=words, **typed)]


_PRECISION = option(str, "--precision", "NAME", "fp32, bf16 or fp16 (auto).")
#: Options by the setting that each is: its short name or ``section__name``; ``salt`` is the session's own.
OPTIONS: dict[str, Any] = {
    "redis": RedisUrl,
    "health": option(str, "--health", "[HOST:]PORT", "Serve /livez, /readyz, /metrics and /v1/sources there."),
    "live__wait": option(bool, "--wait/--no-wait", None, "Keep trying sources that do not answer yet."),
    "clip__mode": option(bool, "--whole-clip", None, "One clip a file, as DFER-CLIP's test samples.", callback=_mode),
    "captions": option(Literal["off", "changes", "all"], "--captions", None, "Describe no clip, what changes, or all."),
    "captioner": option(str, "--captioner", "WHO", "measured, openai:MODEL, a name or a folder."),
    "model": option(str, "--model -m", "NAME", "Expression model: a name or a file (mini)."),
    "model__emotions": option(bool, "--emotions/--no-emotions", None, "Name expressions; else action units alone."),
    "detector": option(str, "--detector", "NAME", f"{_DETECTORS}, an insightface pack, or an .onnx file (auto)."),
    "device": option(str, "--device", "NAME", "cpu, cuda or cuda:1 (auto)."),
    "precision": _PRECISION,
    "fps": option(float, "--fps", "N", "Frames analysed a second (8)."),
    "clip_seconds": option(float, "--clip-seconds", "S", "Length of a clip (2)."),
    "stride": option(float, "--stride", "S", "Seconds between clips' starts (1)."),
    "threads": option(int, "--threads", "N", "Cores for everything together (all)."),
    "purpose": option(str, "--purpose", "WORDS", "What this is for; kept with every result."),
    "captions__precision": _PRECISION,
    "bridge__topic": option(str, "--topic", "WORD", "mqtt: what topics begin with (streamfer)."),
    "bridge__secret": option(str, "--secret", "WHERE", "webhook: '${NAME}' or '${file:PATH}' signs."),
    "bridge__since": option(str, "--since", "WHERE", "Where a new bridge begins: new, start, 10m (new)."),
    "serve__address": option(str, "--address", "[HOST:]PORT", "Where the page is; this machine alone (8080)."),
    "salt": option(str, "--track-salt", "WORD", "Makes track ids repeatable (random)."),
}
#: Those of whoever labels whole videos.
ANALYSIS = ("model", "model__emotions", "detector", "device", "precision", "fps", "clip_seconds", "stride", "threads")


def takes(
    *names: str, also: Mapping[str, str] | None = None, passed: Mapping[str, Any] | None = None, **defaults: str
) -> Callable[[Command], Command]:
    """Give a command options behind its own.

    One whose first parameter is ``config`` or ``session`` gets what its settings make in that place, and ``--config``
    and ``--set`` besides; nothing is loaded yet.

    Args:
        names: of :data:`OPTIONS`.
        also: settings to the name of the option that they follow.
        passed: options that the command hands on, by the argument that each is; it gets those that were given.
        defaults: settings of this command where no option says otherwise.
    """
    handed = passed or {}

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, localns={"Session": object, "Config": object}, include_extras=True)
        own = [one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD]
        made = own.pop(0).name if own[0].name in ("config", "session") else None
        shared = {**handed, **{name: OPTIONS[name] for name in names}}
        shared |= {"config_file": ConfigFile, "assignments": Assignments} if made else {}

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {name: value for name in names if (value := values.pop(name)) is not None}
            given |= {name: given[option] for name, option in (also or {}).items() if option in given}
            values = {name: value for name, value in values.items() if name not in handed or value is not None}
            if made is not None:
                wanted = {**defaults, **given}
                values[made] = _made(made, values.pop("config_file"), wanted, values.pop("assignments"))
            command(**values)

        parameters = [
            *(parameter.replace(annotation=hints[parameter.name]) for parameter in own),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
                for name, option in shared.items()
            ),
        ]
        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _made(kind: str, path: Path | None, wanted: dict[str, Any], assignments: list[str] | None) -> Any:
    salt = wanted.pop("salt", None)
    reread = functools.partial(configure, path, wanted, assignments)
    config = reread()
    if kind == "config":
        return config
    from streamfer.api import Session

    session = Session(config, salt=salt)
    session.reread = reread if path is not None else None
    return session


def configure(path: Path | None, flags: dict[str, Any], assignments: list[str] | None = None) -> Config:
    """Merge file, environment and flags, and hold every library to the thread budget.

    Must run before torch and its like are imported: their pools read the environment when they load. ``flags`` are
    settings by the names that :func:`streamfer.config.full_name` reads, ``assignments`` words ``name=value``.

    Raises:
        ConfigError: a setting is unknown, malformed or out of range.
    """
    from streamfer.config import full_name, load_config
    from streamfer.settings import read_pairs
    from streamfer.threads import apply_environment, plan_threads

    given = {full_name(name): value for name, value in flags.items()}
    config = load_config(path, {**read_pairs(assignments or []), **given})
    apply_environment(plan_threads(config.threads))
    return config
