"""`streamfer train dfer-clip` and `streamfer evaluate dfer-clip`; also `python -m streamfer_train.dfer_clip`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from streamfer_train.recipes.command import run_recipe

if TYPE_CHECKING:
    from streamfer_train.dfer_clip.config import RunConfig


def main(arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``evaluate``; a user error is one line on standard error and its exit code."""
    return run_recipe(arguments, "dfer-clip", _settings, _train, _evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from streamfer_train.dfer_clip.evaluate import run

    run(options)


def _settings() -> Any:
    from streamfer_train.dfer_clip.config import EXAMPLE, RunConfig

    return RunConfig, EXAMPLE


def _train(options: argparse.Namespace, config: RunConfig) -> None:
    from streamfer_train.dfer_clip import runs
    from streamfer_train.dfer_clip.config import with_texts

    config = with_texts(config)
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
    sys.exit(main())
