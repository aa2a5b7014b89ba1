"""`streamfer train exp-blip` and `streamfer evaluate exp-blip`; also `python -m streamfer_train.exp_blip`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from streamfer.errors import ConfigError
from streamfer_train.recipes.command import run_recipe, train_parser

if TYPE_CHECKING:
    from streamfer_train.exp_blip.config import ExpBlipConfig

_TRAIN = """\
Train Exp-BLIP in three stages; every stage writes below the same --out.

  streamfer train exp-blip --stage au         -c configs/train/exp_blip/released.yaml --out runs/exp   AU-BLIP
  streamfer train exp-blip --stage emotion    -c ... --out runs/exp                                    Emot-BLIP
  streamfer train exp-blip --stage pseudo     -c ... --out runs/exp      missing halves, and their fusion
  streamfer train exp-blip --stage expression -c ... --out runs/exp      Exp-BLIP (--variant mix, cat: ablations)
  streamfer train exp-blip ... --resume                                  go on where it stopped, to the same result
  torchrun --nproc-per-node 4 -m streamfer_train.exp_blip train --stage au -c ...
"""


def main(arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``evaluate``; a user error is one line on standard error and its exit code."""
    return run_recipe(arguments, _parser, _settings, _train, _evaluate)


def _evaluate(words: list[str]) -> int:
    from streamfer_train.exp_blip.evaluate import main

    return main(words)


def _parser() -> argparse.ArgumentParser:
    parser = train_parser(
        "exp-blip",
        _TRAIN,
        configs="configs/train/exp_blip holds those of paper, supplement and released files",
        example="step1.epochs=10",
        checks="lists, weights and settings",
    )
    parser.add_argument("--stage", choices=["au", "emotion", "pseudo", "expression"], help="which stage")
    parser.add_argument("--variant", choices=["exp", "mix", "cat"], default="exp", help="of the stage expression")
    return parser


def _settings() -> Any:
    from streamfer_train.exp_blip.config import EXAMPLE, ExpBlipConfig, load_config

    return ExpBlipConfig, load_config, EXAMPLE


def _train(options: argparse.Namespace, config: ExpBlipConfig) -> None:
    from streamfer_train.exp_blip import pseudo, stages

    if options.stage is None:
        raise ConfigError("no stage; add --stage au, emotion, pseudo or expression")
    if options.stage == "pseudo":
        print(pseudo.check(config) if options.check else pseudo.write(config))
    elif options.check:
        print(stages.check(config, options.stage, options.variant))
    elif (written := stages.train_stage(config, options.stage, options.variant, resume=options.resume)) is not None:
        print(f"{written}: try it with 'streamfer evaluate exp-blip --captioner {written}'")


if __name__ == "__main__":
    sys.exit(main())
