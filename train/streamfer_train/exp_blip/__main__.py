"""`streamfer train exp-blip` and `streamfer evaluate exp-blip`; also `python -m streamfer_train.exp_blip`."""

from __future__ import annotations

import argparse
import sys

from streamfer.errors import ConfigError
from streamfer.settings import describe_settings
from streamfer_train.recipes.command import add_run_options, overrides_of, recipe_parser, train_or_evaluate

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
    return train_or_evaluate(arguments, _evaluate, _parser, _train)


def _evaluate(words: list[str]) -> int:
    from streamfer_train.exp_blip.evaluate import main

    return main(words)


def _parser() -> argparse.ArgumentParser:
    parser, train = recipe_parser("exp-blip", _TRAIN, "caption a list and score the captions", __doc__)
    train.add_argument("--stage", choices=["au", "emotion", "pseudo", "expression"], help="which stage")
    train.add_argument("--variant", choices=["exp", "mix", "cat"], default="exp", help="of the stage expression")
    add_run_options(
        train,
        configs="configs/train/exp_blip holds those of paper, supplement and released files",
        example="step1.epochs=10",
        checks="lists, weights and settings",
    )
    return parser


def _train(options: argparse.Namespace) -> int:
    from streamfer_train.exp_blip.config import EXAMPLE, ExpBlipConfig, load_config

    if options.settings:
        print(describe_settings(ExpBlipConfig), end="")
        return 0
    config = load_config(options.config, overrides_of(options, EXAMPLE))
    if options.stage is None:
        raise ConfigError("no stage; add --stage au, emotion, pseudo or expression")
    if options.stage == "pseudo":
        from streamfer_train.exp_blip import pseudo

        print(pseudo.check(config) if options.check else pseudo.write(config))
        return 0
    from streamfer_train.exp_blip import stages

    if options.check:
        print(stages.check(config, options.stage, options.variant))
        return 0
    written = stages.train_stage(config, options.stage, options.variant, resume=options.resume)
    if written is not None:
        print(f"{written}: try it with 'streamfer evaluate exp-blip --captioner {written}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
