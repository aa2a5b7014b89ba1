"""`streamfer train mini-captions features|train|export`: train the built-in captioner, one step at a time.

Each step goes on where it stopped; under torchrun (`torchrun --nproc-per-node 2 -m streamfer_train.mini_captions
train`) the processes share the batches of `train`. Recipe: configs/train/mini_captions.yaml.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from streamfer_train.mini_captions.recipe import EXAMPLE, CaptionRecipe, load_recipe
from streamfer_train.recipes.command import add_recipe_options, reported

STEPS = ("features", "train", "export")


def main(arguments: list[str] | None = None) -> int:
    """Run one step; a user error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="streamfer train mini-captions", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    add_recipe_options(parser, Path(EXAMPLE), "train.epochs=2")
    parser.add_argument("--to", type=Path, help="file that export writes (default: NAME.safetensors in work)")
    options = parser.parse_args(arguments)
    return reported(lambda: _run(options, load_recipe(options.config, options.set)))


def _run(options: argparse.Namespace, recipe: CaptionRecipe) -> None:
    # Heavy imports wait until the arguments are known to be good.
    import torch

    from streamfer_train.mini import data, renders
    from streamfer_train.mini_captions import export, features, training
    from streamfer_train.recipes.world import joined

    torch.set_num_threads(options.threads)
    seen = features.read_encoder(recipe)
    corpus = data.load(recipe.data)
    clips = renders.load(recipe.renders, "train", limit=recipe.features.clips)
    val = renders.load(recipe.renders, "val")
    if options.step == "features":
        features.encode_all(recipe, seen, corpus, clips, val)
    elif options.step == "train":
        with joined("cpu") as world:
            training.train(recipe, seen, corpus, clips, val, world)
    else:
        to = options.to or recipe.work / f"{recipe.name}.safetensors"
        export.export(recipe, seen, corpus, clips, val, to, datetime.now(tz=UTC).date().isoformat())
        sys.stdout.write(f"{to}\n{to.with_suffix('.md')}\n")


if __name__ == "__main__":
    sys.exit(main())
