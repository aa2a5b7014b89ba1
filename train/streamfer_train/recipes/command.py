"""Command lines of recipes: options that many of them have, and errors that end in one line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamfer.errors import ConfigError, StreamferError
from streamfer.settings import Section, describe_settings


def reported(body: Callable[[], int | None]) -> int:
    """Run a command and return its exit code; what streamfer raises on purpose is one line on standard error."""
    try:
        return body() or 0
    except StreamferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run_recipe(
    arguments: list[str] | None,
    parser: Callable[[], argparse.ArgumentParser],
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
    if words[:1] != ["train"]:
        parser().error("the first word is train or evaluate")
    options = parser().parse_args(words[1:])

    def run() -> None:
        kind, load, example = settings()
        if options.settings:
            print(describe_settings(kind), end="")
        else:
            train(options, load(options.config, overrides_of(options, example)))

    return reported(run)


def positive(text: str) -> int:
    """Return a whole number above 0 (a type for argparse).

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def add_set(parser: argparse._ActionsContainer, example: str) -> None:
    """Add ``--set``, whose pairs :func:`~streamfer.settings.load_settings` takes as they are."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help=f"override a setting, as in {example}"
    )


def add_recipe_options(parser: argparse.ArgumentParser, config: Path, example: str) -> None:
    """Add what the recipes of built-in models take: a configuration, overrides, threads."""
    parser.add_argument("-c", "--config", type=Path, default=config)
    add_set(parser, example)
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (default 1)")


def train_parser(name: str, description: str, *, configs: str, example: str, checks: str) -> argparse.ArgumentParser:
    """Return the parser of ``streamfer train NAME``, with what recipes with a folder of runs take."""
    parser = argparse.ArgumentParser(
        prog=f"streamfer train {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", type=Path, help=f"YAML file; {configs}")
    add_set(parser, example)
    parser.add_argument("--out", type=Path, help="folder of the run; instead of run.out")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    parser.add_argument("--check", action="store_true", help=f"check {checks}; train nothing")
    parser.add_argument("--settings", action="store_true", help="print every setting with its default, and stop")
    return parser


def overrides_of(options: argparse.Namespace, example: str) -> list[str]:
    """Return the settings given on the command line, ``--out`` among them.

    Raises:
        ConfigError: no configuration was given; ``example`` is one.
    """
    if options.config is None:
        raise ConfigError(f"no configuration; give one with -c, for example {example}")
    out = [] if options.out is None else [f"run.out={json.dumps(str(options.out))}"]
    return [*options.set, *out]
