"""Command lines of recipes: options that many of them have, and errors that end in one line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamfer.arguments import Section
from streamfer.errors import ConfigError, StreamferError
from streamfer.files import table_beside
from streamfer.redaction import redact_text
from streamfer.settings import describe_settings

#: What a command says of itself and takes, by its name; sets of options that several take.
COMMANDS: dict[str, dict[str, Any]] = table_beside(__file__)


def reported(body: Callable[[], int | None]) -> int:
    """Run a command and return its exit code; what streamfer raises on purpose is one line on standard error."""
    try:
        return body() or 0
    except StreamferError as error:
        from streamfer.cli.terminal import complain

        complain(redact_text(str(error)))
        return error.exit_code


def run_recipe(
    arguments: list[str] | None,
    name: str,
    settings: Callable[[], tuple[type[Section], Callable[[Path, list[str]], Any], str]],
    train: Callable[[argparse.Namespace, Any], None],
    evaluate: Callable[[list[str]], int],
) -> int:
    """Run ``train`` or ``evaluate`` of a recipe and return its exit code; a user error is one line.

    Args:
        settings: returns the kind of the configuration, its reader, and an example of it; imported late.
        train: called with the options of ``train`` and the configuration.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["evaluate"]:
        return evaluate(words[1:])
    parser = parser_of(f"streamfer train {name}")
    if words[:1] != ["train"]:
        parser.error("the first word is train or evaluate")
    options = parser.parse_args(words[1:])

    def run() -> None:
        kind, load, example = settings()
        if options.settings:
            print(describe_settings(kind), end="")
        else:
            train(options, load(options.config, overrides_of(options, example)))

    return reported(run)


def positive(text: str) -> int:
    """Return a whole number above 0; anything else is an ArgumentTypeError, as argparse has it of a type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def parser_of(name: str, **words: str) -> argparse.ArgumentParser:
    """Return the parser of a command that ``command.toml`` describes; ``words`` are further words of the command."""
    told = {**COMMANDS[name], **words}
    parser = argparse.ArgumentParser(
        prog=name,
        description=told["description"],
        epilog=told.get("epilog"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, name, told)
    return parser


def add_options(parser: argparse._ActionsContainer, name: str, told: Mapping[str, Any]) -> None:
    """Add the options that ``command.toml`` lists under a name, those of the sets that it takes first.

    Args:
        told: words of the command, which stand for names in braces in what the options say of themselves.
    """
    kinds = {"path": Path, "int": int, "float": float, "positive": positive}
    for taken in COMMANDS[name].get("takes", ()):
        title = COMMANDS[taken].get("title")
        add_options(parser.add_argument_group(title) if title else parser, taken, told)
    for flags, option in COMMANDS[name].get("options", {}).items():
        more: dict[str, Any] = {**option, "help": option.get("help", "").format(**told) or None}
        if "type" in option:
            more["type"] = kinds[option["type"]]
        if isinstance(option.get("metavar"), list):
            more["metavar"] = tuple(option["metavar"])
        if flags in told.get("needs", ()):
            more["required"] = True
        parser.add_argument(*flags.split(), **more)


def add_recipe_options(parser: argparse.ArgumentParser, config: Path, example: str) -> None:
    """Add what the recipes of built-in models take: a configuration (``config`` if not given), overrides, threads."""
    add_options(parser, "a recipe", {"example": example})
    parser.set_defaults(config=config)


def overrides_of(options: argparse.Namespace, example: str) -> list[str]:
    """Return the settings given on the command line, ``--out`` among them; a ConfigError without a configuration."""
    if options.config is None:
        raise ConfigError(f"no configuration; give one with -c, for example {example}")
    out = [] if options.out is None else [f"run.out={json.dumps(str(options.out))}"]
    return [*options.set, *out]
