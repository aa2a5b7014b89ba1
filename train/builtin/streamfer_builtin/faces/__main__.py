"""`python -m streamfer_builtin.faces`: train, export and evaluate the built-in face detector."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import torch

from streamfer_builtin.faces.config import EXAMPLE, FacesConfig, load_config
from streamfer_train.recipes.command import Parser, add_recipe_options, amount, path, reported


def main(arguments: list[str] | None = None) -> int:
    """Run one command; user errors are one line on standard error and exit code 2."""
    options = _parser().parse_args(arguments)
    return reported(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, options.set)
    cv2.setNumThreads(1)
    torch.set_num_threads(options.threads)
    options.command(config, options)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m streamfer_builtin.faces", description="Train, export and evaluate the built-in face detector."
    )
    commands = parser.add_subparsers(required=True)
    for name, command, text in (
        ("all", _all, "Train or resume, export with the threshold chosen on held-out pictures, and evaluate."),
        ("train", _train, "Train, or resume where the work folder has a checkpoint."),
        ("export", _export, "Write the averaged weights as ONNX."),
        ("evaluate", _evaluate, "Print recall, false faces, landmark error and time."),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        add_recipe_options(sub, Path(EXAMPLE), "train.steps=500")
        if name in ("all", "export"):
            sub.add_argument("-o", "--output", type=path, required=True, metavar="FILE", help="The network.")
        if name == "export":
            sub.add_argument(
                "--threshold", type=_share, metavar="N", help="Score of a face, 0 to 1 (chosen on pictures kept out)."
            )
        if name == "evaluate":
            sub.add_argument("--weights", type=path, required=True, metavar="FILE", help="The network.")
            sub.add_argument(
                "--part", choices=("tune", "test"), default="tune", help="test is for the end, once (tune)."
            )
            sub.add_argument("--former", type=path, metavar="FILE", help="An earlier export to compare with.")
            sub.add_argument("--others", action="store_true", help="Measure CenterFace and YuNet, too.")
    return parser


def _share(text: str) -> float:
    if amount(text) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return float(text)


def _all(config: FacesConfig, options: argparse.Namespace) -> None:
    from streamfer_builtin.faces.evaluate import compare

    if not _train(config, options):
        return
    options.threshold = None
    _export(config, options)
    print(compare(config.data, options.output, "test", former=None, others=False))


def _train(config: FacesConfig, _: argparse.Namespace) -> bool:
    """Train; whether this is the process that goes on with what came of it."""
    from streamfer_builtin.faces.training import train

    checkpoint, leads = train(config)
    if leads:
        print(checkpoint)
    return leads


def _export(config: FacesConfig, options: argparse.Namespace) -> None:
    from streamfer_builtin.faces.export import export_checkpoint

    export_checkpoint(config, options.output, threshold=options.threshold)


def _evaluate(config: FacesConfig, options: argparse.Namespace) -> None:
    from streamfer_builtin.faces.evaluate import compare

    print(compare(config.data, options.weights, options.part, former=options.former, others=options.others))


if __name__ == "__main__":
    sys.exit(main())
