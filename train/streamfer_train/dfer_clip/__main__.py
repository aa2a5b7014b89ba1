"""`streamfer train dfer-clip` and `streamfer evaluate dfer-clip`; also `python -m streamfer_train.dfer_clip`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from streamfer.errors import ConfigError
from streamfer_train.recipes.command import run_recipe, train_parser

if TYPE_CHECKING:
    from streamfer_train.dfer_clip.config import RunConfig

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
    return run_recipe(arguments, _parser, _settings, _train, _evaluate)


def _evaluate(words: list[str]) -> int:
    from streamfer_train.dfer_clip.evaluate import main

    return main(words)


def _parser() -> argparse.ArgumentParser:
    parser = train_parser(
        "dfer-clip",
        _TRAIN,
        configs="configs/train/dfer_clip has the datasets'",
        example="optimiser.epochs=10",
        checks="data and configuration",
    )
    parser.add_argument("--fold", type=int, action="append", help="only this fold (repeatable)")
    parser.add_argument("--cut-faces", action="store_true", help="with --check: cut the faces now (data.faces: detect)")
    return parser


def _settings() -> Any:
    from streamfer_train.dfer_clip.config import RunConfig, load_config

    return RunConfig, load_config, "configs/train/dfer_clip/dfew.yaml"


def _train(options: argparse.Namespace, config: RunConfig) -> None:
    from streamfer_train.dfer_clip import runs

    if options.cut_faces and not options.check:
        raise ConfigError("--cut-faces goes with --check; training cuts faces anyway")
    if options.check:
        print(runs.check(config, folds=options.fold, cut_faces=options.cut_faces))
        return
    results = runs.train(config, folds=options.fold, resume=options.resume)
    for result in results:
        scores = ", ".join(f"{name.upper()} {100 * result.scores[name].mean:.2f}" for name in ("uar", "war"))
        print(f"{result.selection}: {scores} ({len(result.folds)} fold(s) x {len(result.seeds)} seed(s))")
    if results:
        print(f"summary: {config.run.out / 'summary.md'}")
        for exported in sorted(config.run.out.glob("seed*/fold*/dfer-clip-*.safetensors")):
            print(f"exported: {exported} (try: streamfer annotate VIDEO --model {exported})")


if __name__ == "__main__":
    from streamfer.cli.terminal import configure_logging

    configure_logging(verbose=False)
    sys.exit(main())
