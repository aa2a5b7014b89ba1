"""`python -m streamfer_train.datasets NAME ROOT --out FILE`: a data set as a label file for caption synthesis."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from streamfer_train.captions.files import write_entries
from streamfer_train.datasets.catalogue import DATASETS, dataset
from streamfer_train.recipes.command import reported


def main(arguments: list[str] | None = None) -> int:
    """Write one side of a data set; a user error is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m streamfer_train.datasets",
        description=__doc__,
        epilog="\n".join(f"{known.name}: {known.expects}" for known in DATASETS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help=", ".join(DATASETS))
    parser.add_argument("root", type=Path, help="where the data set lies")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".json or .jsonl")
    parser.add_argument("--split", choices=["train", "test"], default="train")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    options = parser.parse_args(arguments)
    return reported(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    samples = dataset(options.name).load(options.root, options.split, options.seed)
    count = write_entries(options.out, (sample.to_json() for sample in samples))
    people = len({sample.subject for sample in samples})
    sys.stdout.write(f"{options.out}: {count} pictures of {people} people or sources\n")


if __name__ == "__main__":
    sys.exit(main())
