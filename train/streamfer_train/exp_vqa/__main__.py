"""`streamfer train exp-vqa` and `streamfer evaluate exp-vqa`; also `python -m streamfer_train.exp_vqa`."""

from __future__ import annotations

import argparse
import sys

from streamfer.errors import UserError
from streamfer_train.exp_blip.__main__ import add_run_options, overrides_of

_TRAIN = """\
Train Exp-VQA: questions about faces, answered by an InstructBLIP whose Q-Former reads the question.

  streamfer train exp-vqa -c configs/train/exp_vqa/released.yaml --out runs/vqa
  streamfer train exp-vqa -c configs/train/exp_vqa/frozen.yaml --set runtime.precision=bf16     the ViT frozen
  streamfer train exp-vqa -c ... --resume                            go on where it stopped, to the same result
  torchrun --nproc-per-node 4 -m streamfer_train.exp_vqa train -c ...
"""


def main(arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``evaluate``; a user error is one line on standard error and its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words[:1] == ["evaluate"]:
            from streamfer_train.exp_vqa import evaluate

            return evaluate.main(words[1:])
        return _train(_parser().parse_args(words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="exp-vqa", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="train|evaluate")
    commands.add_parser("evaluate", help="ask a model and score its answers", add_help=False)
    train = commands.add_parser(
        "train",
        prog="streamfer train exp-vqa",
        description=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(train, "configs/train/exp_vqa holds both variants")
    return parser


def _train(options: argparse.Namespace) -> int:
    from streamfer_train.exp_blip.settings import describe_settings, load_settings
    from streamfer_train.exp_vqa.config import ExpVqaConfig

    if options.settings:
        print(describe_settings(ExpVqaConfig), end="")
        return 0
    overrides = overrides_of(options)
    config = load_settings(ExpVqaConfig, options.config, overrides)
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
