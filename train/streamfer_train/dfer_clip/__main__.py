"""`streamfer train dfer-clip` and `streamfer evaluate dfer-clip`; also `python -m streamfer_train.dfer_clip`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from streamfer.errors import UserError

_TRAIN = """\
Train DFER-CLIP on frame folders or videos: the authors' recipe, and what goes beyond it as configuration.

  streamfer train dfer-clip -c configs/train/dfer_clip/dfew.yaml --set data.root=DFEW/DFEW_Frame_Face --out runs/dfew
  streamfer train dfer-clip -c configs/train/dfer_clip/csv.yaml --check
  streamfer train dfer-clip -c ... --resume              go on where it stopped, to the same result
  streamfer train dfer-clip -c ... --fold 3              one fold; the others into the same --out, when they like
  torchrun --nproc-per-node 4 -m streamfer_train.dfer_clip train -c ...
"""


def main(arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``evaluate``; a user error is one line on standard error and its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words[:1] == ["evaluate"]:
            from streamfer_train.dfer_clip import evaluate

            return int(evaluate.main(words[1:]) or 0)
        return _train(_parser().parse_args(words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dfer-clip", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="train|evaluate")
    commands.add_parser("evaluate", help="measure a checkpoint, the authors' included", add_help=False)
    train = commands.add_parser(
        "train",
        help="train, check or resume",
        prog="streamfer train dfer-clip",
        description=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("-c", "--config", type=Path, help="YAML file; configs/train/dfer_clip has the datasets'")
    train.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting, as in optimiser.epochs=10"
    )
    train.add_argument("--fold", type=int, action="append", help="only this fold (repeatable)")
    train.add_argument("--out", type=Path, help="folder of the run; instead of run.out")
    train.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    train.add_argument("--check", action="store_true", help="check data and configuration, train nothing")
    train.add_argument("--cut-faces", action="store_true", help="with --check: cut the faces now (data.faces: detect)")
    train.add_argument("--settings", action="store_true", help="print every setting with its default, and stop")
    return parser


def _train(options: argparse.Namespace) -> int:
    from streamfer_train.dfer_clip.config import describe_settings, load_config

    if options.settings:
        print(describe_settings(), end="")
        return 0
    if options.config is None:
        raise _no_config()
    if options.cut_faces and not options.check:
        raise _only_with_check()
    overrides = list(options.set)
    if options.out is not None:
        overrides.append(f"run.out={_quoted(options.out)}")
    config = load_config(options.config, overrides)
    from streamfer_train.dfer_clip import runs

    if options.check:
        print(runs.check(config, folds=options.fold, cut_faces=options.cut_faces))
        return 0
    results = runs.train(config, folds=options.fold, resume=options.resume)
    for result in results:
        scores = ", ".join(f"{name.upper()} {100 * result.scores[name].mean:.2f}" for name in ("uar", "war"))
        print(f"{result.selection}: {scores} ({len(result.folds)} fold(s) x {len(result.seeds)} seed(s))")
    if results:
        print(f"summary: {config.run.out / 'summary.md'}")
        for exported in sorted(config.run.out.glob("seed*/fold*/dfer-clip-*.safetensors")):
            print(f"exported: {exported} (try: streamfer annotate VIDEO --model {exported})")
    return 0


def _no_config() -> UserError:
    from streamfer.errors import ConfigError

    return ConfigError("no configuration; give one with -c, for example configs/train/dfer_clip/dfew.yaml")


def _only_with_check() -> UserError:
    from streamfer.errors import ConfigError

    return ConfigError("--cut-faces goes with --check; training cuts faces anyway")


def _quoted(path: Path) -> str:
    import json

    return json.dumps(str(path))


if __name__ == "__main__":
    from streamfer.cli.terminal import configure_logging

    configure_logging(verbose=False)
    sys.exit(main())
