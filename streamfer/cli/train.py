"""``streamfer train`` and ``streamfer evaluate``: hand over to a recipe of ``streamfer_train``."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import structlog
import typer

from streamfer.errors import UnknownModelError
from streamfer.extras import needs

#: Recipe to its module; each has a ``main(arguments)`` that returns an exit code and knows its own ``--help``.
RECIPES = {
    "dfer-clip": "streamfer_train.dfer_clip.__main__",
    "exp-blip": "streamfer_train.exp_blip.__main__",
    "exp-vqa": "streamfer_train.exp_vqa.__main__",
}

#: Everything after the recipe's name belongs to the recipe.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--usage"]}


def train(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(help="dfer-clip, exp-blip or exp-vqa."),
    ] = None,
) -> None:
    """Train a model; what follows the recipe's name goes to the recipe (try: streamfer train dfer-clip --help).

    Training resumes where it stopped.
    """
    _hand_over(context, recipe, ["train", *context.args])


def evaluate(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="dfer-clip, exp-blip or exp-vqa.")] = None,
) -> None:
    """Measure a model; what follows the recipe's name goes to the recipe (try: streamfer evaluate dfer-clip --help)."""
    _hand_over(context, recipe, ["evaluate", *context.args])


def _hand_over(context: typer.Context, recipe: str | None, words: list[str]) -> None:
    if recipe in (None, "--help", "-h"):
        typer.echo(context.get_help())
        return
    if recipe is None or recipe not in RECIPES:
        raise UnknownModelError(f"recipe {recipe!r}: unknown; choose from {', '.join(RECIPES)}")
    # What training says through structlog goes where the rest goes.
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    with needs("train", f"recipe {recipe}"):
        code = import_module(RECIPES[recipe]).main(words)
    if code:
        raise SystemExit(code)
