"""Command lines of recipes: options that many of them have, and errors that end in one line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from streamfer.errors import ConfigError, StreamferError


def reported(body: Callable[[], int | None]) -> int:
    """Run a command and return its exit code; what streamfer raises on purpose is one line on standard error."""
    try:
        return body() or 0
    except StreamferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def train_or_evaluate(
    arguments: list[str] | None,
    evaluate: Callable[[list[str]], int],
    parser: Callable[[], argparse.ArgumentParser],
    train: Callable[[argparse.Namespace], int],
) -> int:
    """Run ``train`` or ``evaluate`` of a recipe and return its exit code; a user error is one line.

    Args:
        arguments: the command line; None is that of the process.
        evaluate: called with the words behind ``evaluate``.
        parser: what :func:`recipe_parser` returned, with options.
        train: called with the options of ``train``.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["evaluate"]:
        return evaluate(words[1:])
    return reported(lambda: train(parser().parse_args(words)))


def positive(text: str) -> int:
    """Return a whole number above 0 (a type for argparse).

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def recipe_parser(
    name: str, train: str, evaluate: str, description: str | None
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser of a recipe that has ``train`` and ``evaluate``, and that of its ``train``, without options.

    Args:
        name: of the recipe, as in dfer-clip.
        train: what ``train`` does, with examples.
        evaluate: what ``evaluate`` does; its own parser takes over before this one reads anything.
        description: of the recipe.
    """
    parser = argparse.ArgumentParser(prog=name, description=description)
    commands = parser.add_subparsers(required=True, metavar="train|evaluate")
    commands.add_parser("evaluate", help=evaluate, add_help=False)
    training = commands.add_parser(
        "train",
        help="train, check or resume",
        prog=f"streamfer train {name}",
        description=train,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser, training


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


def add_run_options(parser: argparse.ArgumentParser, *, configs: str, example: str, checks: str) -> None:
    """Add what recipes with a folder of runs take.

    Args:
        parser: of ``train``.
        configs: where configurations are, as a sentence.
        example: a setting with a value.
        checks: what ``--check`` checks.
    """
    parser.add_argument("-c", "--config", type=Path, help=f"YAML file; {configs}")
    add_set(parser, example)
    parser.add_argument("--out", type=Path, help="folder of the run; instead of run.out")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    parser.add_argument("--check", action="store_true", help=f"check {checks}; train nothing")
    parser.add_argument("--settings", action="store_true", help="print every setting with its default, and stop")


def overrides_of(options: argparse.Namespace, example: str) -> list[str]:
    """Return the settings given on the command line, ``--out`` among them.

    Raises:
        ConfigError: no configuration was given; ``example`` is one.
    """
    if options.config is None:
        raise ConfigError(f"no configuration; give one with -c, for example {example}")
    out = [] if options.out is None else [f"run.out={json.dumps(str(options.out))}"]
    return [*options.set, *out]
