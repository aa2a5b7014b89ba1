"""Command lines of recipes: options that many of them have, and errors that end in one line."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from streamfer.arguments import Section
from streamfer.errors import ConfigError, StreamferError
from streamfer.files import table_beside
from streamfer.redaction import redact_text
from streamfer.settings import describe_settings, load_settings

#: What stands for a value of a kind in the help; a number is N.
_SHOWN = {None: "NAME", "path": "FILE"}
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
    settings: Callable[[], tuple[type[Section], str]],
    train: Callable[[argparse.Namespace, Any], None],
    evaluate: Callable[[argparse.Namespace], None],
) -> int:
    """Run ``train`` or ``evaluate`` of a recipe and return its exit code; a user error is one line.

    Args:
        settings: returns the kind of the configuration, and an example of it; imported late.
        train: called with the options of ``train`` and the configuration.
        evaluate: called with the options of ``evaluate``.
    """
    if arguments is None:
        from streamfer.cli.terminal import configure_logging

        configure_logging(verbose=False)
        arguments = sys.argv[1:]
    task, *words = arguments or [""]
    parser = parser_of(f"streamfer {'evaluate' if task == 'evaluate' else 'train'} {name}")
    if task not in ("train", "evaluate"):
        parser.error("the first word is train or evaluate")
    options = parser.parse_args(words)

    def run() -> None:
        if task == "evaluate":
            return evaluate(options)
        kind, example = settings()
        if options.settings:
            return print(describe_settings(kind), end="")
        said = {"example": example, "listing": f"'streamfer train {name} --settings' lists them all"}
        config: Any = load_settings(kind, options.config, overrides_of(options, example), **said)
        if options.check:
            from streamfer.models.precision import choose_device

            choose_device(config.run.device)
        return train(options, config)

    return reported(run)


def count(text: str, least: int = 0, most: int | None = None) -> int:
    """Return a whole number (a type for argparse, as the others: ArgumentTypeError where it is none)."""
    if not text.isdecimal() or not least <= int(text) <= (most or 2**31 - 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least}" + (f" to {most}" if most else ""))
    return int(text)


def amount(text: str) -> float:
    """Return a number that is not negative, and finite."""
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0")
    return float(text)


def path(text: str) -> Path:
    """Return a path; an empty one would be the folder of now."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a file or folder")
    return Path(text)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Lays options out as those of every command: ``-c, --config FILE``."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, action.dest)}"


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as those of every command; an option is written in full."""

    def __init__(self, *words: Any, **more: Any) -> None:
        super().__init__(*words, **{"allow_abbrev": False, "add_help": False, "formatter_class": _Help, **more})
        self._optionals.title = "Options"
        self.add_argument("-h", "--help", action="help", help="Show this message and exit.")
        self.beside: dict[str, str] = {}  #: option that means something beside another one alone

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Take all words: what is left over is no option of this command."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            close = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, n=1)
            self.error(f"{unknown[0]!r} means nothing here" + (f"; did you mean {close[0]}?" if close else ""))
        options = self._option_string_actions.items()
        given = {flag for flag, one in options if getattr(found, one.dest, one.default) != one.default}
        for flag, other in self.beside.items():
            if flag in given and other not in given:
                self.error(f"{flag}: goes with {other}; leave it out, or add {other}")
        return found, []

    def error(self, message: str) -> NoReturn:
        """Say what was wrong, and where it says what is right."""
        from streamfer.cli.terminal import fail

        fail(f"{message.removeprefix('argument ')}; see: {self.prog} --help", 2)


def parser_of(name: str, **words: str) -> Parser:
    """Return the parser of a command that ``command.toml`` describes; ``words`` are further words of the command."""
    told = {**COMMANDS[name], **words}
    parser = Parser(
        prog=name,
        usage="%(prog)s [OPTIONS]" if name.startswith("streamfer ") else None,
        description=told["description"],
        epilog=told.get("epilog"),
    )
    add_options(parser, name, told)
    return parser


def add_options(parser: Parser, name: str, told: Mapping[str, Any], group: Any = None) -> None:
    """Add the options that ``command.toml`` lists under a name, those of the sets that it takes first.

    Args:
        told: words of the command, which stand for names in braces in what the options say of themselves.
        group: of the help, where they stand.
    """
    kinds = {"path": path, "count": count, "amount": amount, "positive": partial(count, least=1),
             "threads": partial(count, least=1, most=1024)}  # fmt: skip
    for taken in COMMANDS[name].get("takes", ()):
        title = COMMANDS[taken].get("title")
        add_options(parser, taken, told, parser.add_argument_group(title) if title else group)
    for flags, option in COMMANDS[name].get("options", {}).items():
        more: dict[str, Any] = {**option, "help": option.get("help", "").format(**told) or None}
        if other := more.pop("with", None):
            parser.beside[flags] = other
        if "type" in option:
            more["type"] = kinds[option["type"]]
        if option.get("action") in (None, "append"):
            shown = f"<{'|'.join(option['choices'])}>" if "choices" in option else _SHOWN.get(option.get("type"), "N")
            more["metavar"] = tuple(option["metavar"]) if "nargs" in option else option.get("metavar", shown)
        if flags in told.get("needs", ()):
            more["required"] = True
        if more.get("required"):
            more["help"] += "  [required]"
        (group or parser).add_argument(*flags.split(), **more)


def add_recipe_options(parser: Parser, config: Path, example: str) -> None:
    """Add what the recipes of built-in models take: a configuration (``config`` if not given), overrides, threads."""
    add_options(parser, "a recipe", {"example": example})
    parser.set_defaults(config=config)


def overrides_of(options: argparse.Namespace, example: str) -> list[str]:
    """Return the settings given on the command line, ``--out`` among them; a ConfigError without a configuration."""
    if options.config is None:
        raise ConfigError(f"no configuration; give one with -c, for example {example}")
    out = [] if options.out is None else [f"run.out={json.dumps(str(options.out))}"]
    return [*options.set, *out]
