"""`streamfer train exp-blip` and `streamfer evaluate exp-blip`; also `python -m streamfer_train.exp_blip`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from streamfer.errors import ConfigError
from streamfer_train.recipes.command import run_recipe

if TYPE_CHECKING:
    from streamfer_train.exp_blip.config import ExpBlipConfig


def main(arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``evaluate``; a user error is one line on standard error and its exit code."""
    return run_recipe(arguments, "exp-blip", _settings, _train, _evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from streamfer_train.exp_blip.evaluate import run

    run(options)


def _settings() -> Any:
    from streamfer_train.exp_blip.config import EXAMPLE, ExpBlipConfig

    return ExpBlipConfig, EXAMPLE


def _train(options: argparse.Namespace, config: ExpBlipConfig) -> None:
    from streamfer_train.exp_blip import pseudo, stages

    if options.stage is None:
        raise ConfigError("no stage; add --stage au, emotion, pseudo or expression")
    if options.variant != "exp" and options.stage != "expression":
        raise ConfigError(f"--variant {options.variant}: is of --stage expression; leave it out")
    if options.stage == "pseudo":
        print(pseudo.check(config) if options.check else pseudo.write(config))
    elif options.check:
        print(stages.check(config, options.stage, options.variant))
    elif (written := stages.train_stage(config, options.stage, options.variant, resume=options.resume)) is not None:
        print(f"{written}: try it with 'streamfer evaluate exp-blip --captioner {written}'")


if __name__ == "__main__":
    sys.exit(main())
