"""``streamfer train`` and ``streamfer evaluate``: hand over to a recipe.

A recipe is a function that an installed package names under the entry points ``streamfer.recipes``, as pyproject.toml
does for those of ``streamfer_train``; it takes the words behind its name and returns an exit code.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated

import typer

from streamfer.errors import UnknownModelError
from streamfer.extras import needs

#: Everything after the recipe's name belongs to the recipe, its --help included.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_HELP = ("--help", "-h")

Words = Annotated[list[str] | None, typer.Argument(metavar="RECIPE [OPTION]", hidden=True)]


def train(context: typer.Context, words: Words = None) -> None:
    """Train a model: dfer-clip, exp-blip or exp-vqa.

    Of labels, captions or answers. What follows goes to the recipe: streamfer train dfer-clip --help.
    """
    _hand_over(context, "train", words or [])


def evaluate(context: typer.Context, words: Words = None) -> None:
    """Measure a model: dfer-clip, exp-blip or exp-vqa.

    By labels, captions or answers. What follows goes to the recipe: streamfer evaluate dfer-clip --list my.csv
    --weights mini.
    """
    _hand_over(context, "evaluate", words or [])


def _hand_over(context: typer.Context, task: str, words: list[str]) -> None:
    if not words or words[0] in _HELP:
        typer.echo(context.get_help())
        return
    known = {one.name: one for one in entry_points(group="streamfer.recipes")}
    recipe = words[0]
    if recipe not in known:
        model = "MODEL" if recipe.startswith("-") else recipe
        hint = f"; then the model: streamfer evaluate dfer-clip --weights {model} --list FILE" * (task == "evaluate")
        raise UnknownModelError(f"recipe {recipe!r}: unknown; choose from {', '.join(sorted(known))}{hint}")
    with needs("train", f"recipe {recipe}"):
        code = known[recipe].load()([task, *words[1:]])
    if code:
        raise SystemExit(code)
