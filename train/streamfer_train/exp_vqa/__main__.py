"""`streamfer train exp-vqa` and `streamfer evaluate exp-vqa`; also `python -m streamfer_train.exp_vqa`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from streamfer_train.recipes.command import run_recipe, train_parser

if TYPE_CHECKING:
    from streamfer_train.exp_vqa.config import ExpVqaConfig

_TRAIN = """\
Train Exp-VQA: questions about faces, answered by an InstructBLIP whose Q-Former reads the question.

  streamfer train exp-vqa -c configs/train/exp_vqa/released.yaml --out runs/vqa
  streamfer train exp-vqa -c configs/train/exp_vqa/frozen.yaml --set runtime.precision=bf16     the ViT frozen
  streamfer train exp-vqa -c ... --resume                            go on where it stopped, to the same result
  torchrun --nproc-per-node 4 -m streamfer_train.exp_vqa train -c ...
"""


def main(arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``evaluate``; a user error is one line on standard error and its exit code."""
    return run_recipe(arguments, _parser, _settings, _train, _evaluate)


def _evaluate(words: list[str]) -> int:
    from streamfer_train.exp_vqa.evaluate import main

    return main(words)


def _parser() -> argparse.ArgumentParser:
    return train_parser(
        "exp-vqa",
        _TRAIN,
        configs="configs/train/exp_vqa holds both variants",
        example="training.epochs=3",
        checks="lists, weights and settings",
    )


def _settings() -> Any:
    from streamfer_train.exp_vqa.config import EXAMPLE, ExpVqaConfig, load_config

    return ExpVqaConfig, load_config, EXAMPLE


def _train(options: argparse.Namespace, config: ExpVqaConfig) -> None:
    from streamfer_train.exp_vqa import stage

    if options.check:
        print(stage.check(config))
    elif (written := stage.train(config, resume=options.resume)) is not None:
        print(f"{written}: try it with 'streamfer evaluate exp-vqa --captioner {written}'")


if __name__ == "__main__":
    sys.exit(main())
