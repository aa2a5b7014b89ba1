"""`streamfer train exp-vqa` and `streamfer evaluate exp-vqa`; also `python -m streamfer_train.exp_vqa`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from streamfer_train.recipes.command import run_recipe

if TYPE_CHECKING:
    from streamfer_train.exp_vqa.config import ExpVqaConfig


def main(arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``evaluate``; a user error is one line on standard error and its exit code."""
    return run_recipe(arguments, "exp-vqa", _settings, _train, _evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from streamfer_train.exp_vqa.evaluate import run

    run(options)


def _settings() -> Any:
    from streamfer_train.exp_vqa.config import EXAMPLE, ExpVqaConfig

    return ExpVqaConfig, EXAMPLE


def _train(options: argparse.Namespace, config: ExpVqaConfig) -> None:
    from streamfer_train.exp_vqa import stage

    if options.check:
        print(stage.check(config))
    elif (written := stage.train(config, resume=options.resume)) is not None:
        print(f"{written}: try it with 'streamfer evaluate exp-vqa --captioner {written}'")


if __name__ == "__main__":
    sys.exit(main())
