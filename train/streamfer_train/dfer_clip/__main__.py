"""`streamfer train dfer-clip` and `streamfer evaluate dfer-clip`; also `python -m streamfer_train.dfer_clip`."""

from __future__ import annotations

import argparse
import sys

from streamfer.errors import ConfigError
from streamfer.settings import describe_settings
from streamfer_train.recipes.command import add_run_options, overrides_of, recipe_parser, train_or_evaluate

_TRAIN = """\
Train DFER-CLIP on frame folders or videos: the authors' recipe, and what goes beyond it as configuration.

  streamfer train dfer-clip -c configs/train/dfer_clip/dfew.yaml --set data.root=DFEW/DFEW_Frame_Face --out runs/dfew
  streamfer train dfer-clip -c configs/train/dfer_clip/csv.yaml --check
  streamfer train dfer-clip -c ... --resume              go on where it stopped, to the same result
  streamfer train dfer-clip -c ... --fold 3              one fold; the others into the same --out, when they like
  torchrun --nproc-per-node 4 -m streamfer_train.dfer_clip train -c ...
"""


def main(arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``evaluate``; a user error is one line on standard error and its exit code."""
    return train_or_evaluate(arguments, _evaluate, _parser, _train)


def _evaluate(words: list[str]) -> int:
    from streamfer_train.dfer_clip.evaluate import main

    return main(words)


def _parser() -> argparse.ArgumentParser:
    parser, train = recipe_parser("dfer-clip", _TRAIN, "measure a checkpoint, the authors' included", __doc__)
    add_run_options(
        train,
        configs="configs/train/dfer_clip has the datasets'",
        example="optimiser.epochs=10",
        checks="data and configuration",
    )
    train.add_argument("--fold", type=int, action="append", help="only this fold (repeatable)")
    train.add_argument("--cut-faces", action="store_true", help="with --check: cut the faces now (data.faces: detect)")
    return parser


def _train(options: argparse.Namespace) -> int:
    from streamfer_train.dfer_clip.config import RunConfig, load_config

    if options.settings:
        print(describe_settings(RunConfig), end="")
        return 0
    overrides = overrides_of(options, "configs/train/dfer_clip/dfew.yaml")
    if options.cut_faces and not options.check:
        raise ConfigError("--cut-faces goes with --check; training cuts faces anyway")
    config = load_config(options.config, overrides)
    from streamfer_train.dfer_clip import runs

    if options.check:
        print(runs.check(config, folds=options.fold, cut_faces=options.cut_faces))
        return 0
    results = runs.train(config, folds=options.fold, resume=options.resume)
    for result in results:
        scores = ", ".join(f"{name.upper()} {100 * result.scores[name].mean:.2f}" for name in ("uar", "war"))
        print(f"{result.selection}: {scores} ({len(result.folds)} fold(s) x {len(result.seeds)} seed(s))")
    if results:
        print(f"summary: {config.run.out / 'summary.md'}")
        for exported in sorted(config.run.out.glob("seed*/fold*/dfer-clip-*.safetensors")):
            print(f"exported: {exported} (try: streamfer annotate VIDEO --model {exported})")
    return 0


if __name__ == "__main__":
    from streamfer.cli.terminal import configure_logging

    configure_logging(verbose=False)
    sys.exit(main())
