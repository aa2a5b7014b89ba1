"""`streamfer train mini images|joint|clips|export`: train the built-in expression model, one stage at a time.

Each stage resumes where it stopped; under torchrun (`torchrun --nproc-per-node 2 -m streamfer_builtin.mini joint`) the
processes share the batches of `images` and `joint`. Recipes: train/builtin/configs/mini.yaml.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from streamfer.errors import ConfigError
from streamfer_builtin.mini.recipe import EXAMPLE, Recipe, load_recipe
from streamfer_train.recipes.command import add_recipe_options, reported

STAGES = ("images", "joint", "clips", "export")


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; a user error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="streamfer train mini", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    add_recipe_options(parser, Path(EXAMPLE), "images.epochs=2")
    parser.add_argument("--to", type=Path, help="weights file that export writes (default: NAME.safetensors in work)")
    options = parser.parse_args(arguments)
    return reported(lambda: _run(options, load_recipe(options.config, options.set)))


def _run(options: argparse.Namespace, recipe: Recipe) -> None:
    # Heavy imports wait until the arguments are known to be good.
    import torch

    from streamfer_builtin.mini import card, clips, data, export, images, joint, renders
    from streamfer_train.recipes.processes import joined

    torch.set_num_threads(options.threads)
    if options.stage == "images":
        if not recipe.photographs:
            raise ConfigError(f"{options.config}: photographs is false, so there is no stage images; begin with joint")
        with joined("cpu") as world:
            images.train(data.load(recipe.data), recipe.images, recipe.sizes, recipe.work, world)
    elif options.stage == "joint":
        with joined("cpu") as world:
            joint.train(recipe, data.load(recipe.data), renders.load(recipe.renders, "train"), world)
    elif options.stage == "clips":
        rendered = renders.load(recipe.renders, "train", limit=recipe.clips.rendered)
        clips.train(recipe, data.load(recipe.data), rendered, renders.load(recipe.renders, "val"))
    else:
        to = options.to or recipe.work / f"{recipe.name}.safetensors"
        described = export.export(recipe, data.load(recipe.data), to, datetime.now(tz=UTC).date().isoformat())
        card.write(described, to.stat().st_size, to.with_suffix(".md"))
        sys.stdout.write(f"{to}\n{to.with_suffix('.md')}\n")


if __name__ == "__main__":
    sys.exit(main())
