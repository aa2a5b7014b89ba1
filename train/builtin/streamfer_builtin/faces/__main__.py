"""`python -m streamfer_builtin.faces`: compose, train, export and evaluate the built-in face detector."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import torch

from streamfer_builtin.faces.config import EXAMPLE, FacesConfig, load_config
from streamfer_train.recipes.command import add_recipe_options, reported


def main(arguments: list[str] | None = None) -> int:
    """Run one command; user errors are one line on standard error and exit code 2."""
    options = _parser().parse_args(arguments)
    return reported(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, options.set)
    cv2.setNumThreads(1)
    torch.set_num_threads(options.threads)
    options.command(config, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m streamfer_builtin.faces", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, command, text in (
        ("compose", _compose, "gather sources and compose the pools that are missing"),
        ("train", _train, "compose what is missing, then train or resume"),
        ("export", _export, "write the averaged weights as ONNX"),
        ("evaluate", _evaluate, "print recall, false positives, landmark error and time"),
    ):
        sub = commands.add_parser(name, help=text)
        sub.set_defaults(command=command)
        add_recipe_options(sub, Path(EXAMPLE), "train.steps=500")
        if name == "train":
            sub.add_argument("--until", type=int, help="stop after this many steps")
        if name == "export":
            sub.add_argument("-o", "--output", type=Path, required=True)
            sub.add_argument("--threshold", type=float, default=0.5, help="score threshold stored as metadata")
            sub.add_argument("--licence", default=None, help="licence text stored as metadata")
        if name == "evaluate":
            sub.add_argument("--weights", type=Path, required=True)
            sub.add_argument("--sweep", action="store_true", help="print a table over thresholds")
            sub.add_argument("--large", type=float, metavar="THRESHOLD", help="measure input sizes for 1080p instead")
            sub.add_argument("--teacher", action="store_true", help="measure the teacher against itself instead")
            sub.add_argument("--threshold", type=float, help="score threshold; chosen on validation when absent")
            sub.add_argument("--enlarge", action="store_true", help="enlarge smaller pictures to 640 pixels first")
            sub.add_argument("--compare", action="store_true", help="measure YuNet s and RFB-320 too")
    return parser


def _compose(config: FacesConfig, _options: argparse.Namespace) -> None:
    from streamfer_builtin.faces.pool import compose_missing

    compose_missing(config)


def _train(config: FacesConfig, options: argparse.Namespace) -> None:
    from streamfer_builtin.faces.pool import compose_missing
    from streamfer_builtin.faces.training import train

    compose_missing(config)
    print(train(config, until=options.until))


def _export(config: FacesConfig, options: argparse.Namespace) -> None:
    from streamfer_builtin.faces.export import export_checkpoint

    export_checkpoint(config, options.output, threshold=options.threshold, licence=options.licence)


def _evaluate(config: FacesConfig, options: argparse.Namespace) -> None:
    from streamfer_builtin.faces.evaluate import evaluate, evaluate_large, evaluate_teacher

    if options.teacher:
        evaluate_teacher(config)
        return
    if options.large is not None:
        evaluate_large(config, options.weights, options.large)
        return
    evaluate(
        config,
        options.weights,
        threshold=options.threshold,
        enlarge=options.enlarge,
        sweep=options.sweep,
        compare=options.compare,
    )


if __name__ == "__main__":
    sys.exit(main())
