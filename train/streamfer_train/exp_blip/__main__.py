"""`streamfer train exp-blip` and `streamfer evaluate exp-blip`; also `python -m streamfer_train.exp_blip`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from streamfer.errors import ConfigError, UserError

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
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words[:1] == ["evaluate"]:
            from streamfer_train.exp_blip import evaluate

            return evaluate.main(words[1:])
        return _train(_parser().parse_args(words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="exp-blip", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="train|evaluate")
    commands.add_parser("evaluate", help="caption a list and score the captions", add_help=False)
    train = commands.add_parser(
        "train",
        prog="streamfer train exp-blip",
        description=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("--stage", choices=["au", "emotion", "pseudo", "expression"], help="which stage")
    train.add_argument("--variant", choices=["exp", "mix", "cat"], default="exp", help="of the stage expression")
    add_run_options(train, "configs/train/exp_blip holds those of paper, supplement and released files")
    return parser


def add_run_options(train: argparse.ArgumentParser, configs: str) -> None:
    """Add the options that every recipe of captioners has."""
    train.add_argument("-c", "--config", type=Path, help=f"YAML file; {configs}")
    train.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting, as in step1.epochs=10"
    )
    train.add_argument("--out", type=Path, help="folder of the run; instead of run.out")
    train.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    train.add_argument("--check", action="store_true", help="check lists, weights and settings; train nothing")
    train.add_argument("--settings", action="store_true", help="print every setting with its default, and stop")


def overrides_of(options: argparse.Namespace) -> list[str]:
    """Return the settings given on the command line.

    Raises:
        ConfigError: no configuration was given.
    """
    if options.config is None:
        raise ConfigError("no configuration; give one with -c, from configs/train")
    out = [] if options.out is None else [f"run.out={json.dumps(str(options.out))}"]
    return [*options.set, *out]


def _train(options: argparse.Namespace) -> int:
    from streamfer_train.exp_blip.config import ExpBlipConfig
    from streamfer_train.exp_blip.settings import describe_settings, load_settings

    if options.settings:
        print(describe_settings(ExpBlipConfig), end="")
        return 0
    config = load_settings(ExpBlipConfig, options.config, overrides_of(options)) if options.config else None
    if config is None or options.stage is None:
        overrides_of(options)
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
