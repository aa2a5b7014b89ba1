"""Train the built-in expression model: `all` runs every stage, from the data sets to the weights file and its card.

Each stage resumes where it stopped, and one that is finished is read, not repeated; under torchrun
(`torchrun --nproc-per-node 2 -m streamfer_builtin.mini joint`) processes share the batches of `joint`. The recipe is
train/builtin/configs/mini.yaml.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from streamfer_builtin.mini.recipe import EXAMPLE, Recipe, load_recipe
from streamfer_train.recipes.command import Parser, add_recipe_options, path, reported

STAGES = ("render", "teachers", "joint", "clips", "export")


def main(arguments: list[str] | None = None) -> int:
    """Run one stage, or all; a user error is one line and exit code 2."""
    parser = Parser(prog="python -m streamfer_builtin.mini", description=__doc__)
    parser.add_argument("stage", choices=("all", *STAGES))
    add_recipe_options(parser, Path(EXAMPLE), "joint.epochs=2")
    parser.add_argument(
        "--to", type=path, metavar="FILE", help="Weights that export writes (NAME.safetensors in work)."
    )
    options = parser.parse_args(arguments)
    return reported(lambda: _run(options, load_recipe(options.config, options.set)))


def _run(options: argparse.Namespace, recipe: Recipe) -> None:
    # Heavy imports wait until the arguments are known to be good.
    import torch

    from streamfer.models.precision import choose_device

    recipe = recipe.model_copy(update={"device": choose_device(recipe.device).device})
    torch.set_num_threads(options.threads)
    for stage in STAGES if options.stage == "all" else (options.stage,):
        if stage == "render":
            _render(recipe, options.threads)
        elif stage == "export":
            _export(recipe, options.to or recipe.work / f"{recipe.name}.safetensors")
        else:
            _train(recipe, stage)


def _render(recipe: Recipe, workers: int) -> None:
    from streamfer_builtin.render.production import produce

    model = recipe.data / "ict_face" / "ict_face.npz"
    for split, count in (("train", recipe.rendered), ("val", recipe.rendered_val)):
        produce(model, recipe.renders, split, 0, count, workers=workers)


def _train(recipe: Recipe, stage: str) -> None:
    from streamfer_builtin.mini import clips, data, joint, renders
    from streamfer_train.recipes.processes import joined

    corpus = data.load(recipe.data)
    rendered = renders.load(recipe.renders, "train", recipe.rendered)
    parts = [recipe]
    if stage == "teachers":
        parts = [recipe.of_teacher(place) for place in range(len(recipe.teachers))]
    if stage in ("teachers", "joint"):
        with joined("cpu") as world:
            for part in parts:
                joint.train(part, corpus, rendered, world)
    else:
        clips.train(recipe, corpus, rendered, renders.load(recipe.renders, "val", recipe.rendered_val))


def _export(recipe: Recipe, to: Path) -> None:
    from streamfer_builtin.mini import card, data, export

    described = export.export(recipe, data.load(recipe.data), to, datetime.now(tz=UTC).date().isoformat())
    card.write(described, to.stat().st_size, to.with_suffix(".md"))
    sys.stdout.write(f"{to}\n{to.with_suffix('.md')}\n")


if __name__ == "__main__":
    sys.exit(main())
