"""`streamfer train exp-vqa` and `streamfer evaluate exp-vqa`; also `python -m streamfer_train.exp_vqa`."""

from __future__ import annotations

import argparse
import sys

from streamfer.settings import describe_settings
from streamfer_train.recipes.command import add_run_options, overrides_of, recipe_parser, train_or_evaluate

_TRAIN = """\
Train Exp-VQA: questions about faces, answered by an InstructBLIP whose Q-Former reads the question.

  streamfer train exp-vqa -c configs/train/exp_vqa/released.yaml --out runs/vqa
  streamfer train exp-vqa -c configs/train/exp_vqa/frozen.yaml --set runtime.precision=bf16     the ViT frozen
  streamfer train exp-vqa -c ... --resume                            go on where it stopped, to the same result
  torchrun --nproc-per-node 4 -m streamfer_train.exp_vqa train -c ...
"""


def main(arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``evaluate``; a user error is one line on standard error and its exit code."""
    return train_or_evaluate(arguments, _evaluate, _parser, _train)


def _evaluate(words: list[str]) -> int:
    from streamfer_train.exp_vqa.evaluate import main

    return main(words)


def _parser() -> argparse.ArgumentParser:
    parser, train = recipe_parser("exp-vqa", _TRAIN, "ask a model and score its answers", __doc__)
    add_run_options(
        train,
        configs="configs/train/exp_vqa holds both variants",
        example="training.epochs=3",
        checks="lists, weights and settings",
    )
    return parser


def _train(options: argparse.Namespace) -> int:
    from streamfer_train.exp_vqa.config import EXAMPLE, ExpVqaConfig, load_config

    if options.settings:
        print(describe_settings(ExpVqaConfig), end="")
        return 0
    config = load_config(options.config, overrides_of(options, EXAMPLE))
    from streamfer_train.exp_vqa import stage

    if options.check:
        print(stage.check(config))
        return 0
    written = stage.train(config, resume=options.resume)
    if written is not None:
        print(f"{written}: try it with 'streamfer evaluate exp-vqa --captioner {written}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
