"""`python -m streamfer_builtin.render`: write shards of rendered clips, or one picture of some of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2

from streamfer.errors import ConfigError
from streamfer_builtin.render.production import contact_sheet, produce
from streamfer_train.recipes.command import reported


def main(arguments: list[str] | None = None) -> int:
    """Render; user errors are one line on standard error and exit code 2."""
    options = _parser().parse_args(arguments)
    return reported(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.clips < 1 or options.threads < 1 or options.seed < 0:
        raise ConfigError("--clips and --threads take a number from 1 upwards, --seed one from 0 upwards")
    cv2.setNumThreads(1)
    model = options.data / "ict_face" / "ict_face.npz"
    if options.sheet is not None:
        contact_sheet(model, options.split, options.seed, options.clips, options.sheet)
    else:
        produce(model, options.out, options.split, options.seed, options.clips, workers=options.threads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m streamfer_builtin.render", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds ict_face/ict_face.npz")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="folder of the shards; finished ones are kept")
    target.add_argument("--sheet", type=Path, metavar="PNG", help="write a picture of the clips instead")
    parser.add_argument("--clips", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--threads", type=int, default=1, help="processes that render, one core each")
    return parser


if __name__ == "__main__":
    sys.exit(main())
