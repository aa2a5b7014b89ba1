"""`python -m streamfer_train.datasets NAME ROOT --out FILE`: a data set as a label file for caption synthesis."""

from __future__ import annotations

import argparse
import sys

from streamfer.errors import ConfigError
from streamfer_train.captions.files import write_entries
from streamfer_train.datasets.catalogue import DATASETS, dataset
from streamfer_train.datasets.coded_video import cut_disfa
from streamfer_train.recipes.command import parser_of, reported
from streamfer_train.recipes.journal import counted


def main(arguments: list[str] | None = None) -> int:
    """Write one side of a data set; a user error is one line and exit code 2."""
    expected = "\n".join(f"{known.name}: {known.expects}" for known in DATASETS.values())
    parser = parser_of("python -m streamfer_train.datasets", names=", ".join(DATASETS), epilog=expected)
    options = parser.parse_args(arguments)
    return reported(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    if options.cut_films:
        if options.name != "disfa":
            raise ConfigError(f"--cut-films: the films of {options.name} are handed out as pictures; leave it out")
        with counted("films", wanted=True) as progress:
            cut_disfa(options.root, progress)
    samples = dataset(options.name).load(options.root, options.split, options.seed)
    count = write_entries(options.out, (sample.to_json() for sample in samples))
    people = len({sample.subject for sample in samples})
    sys.stdout.write(f"{options.out}: {count} pictures of {people} people or sources\n")


if __name__ == "__main__":
    sys.exit(main())
