"""What benchmarks are asked for: numbers from 1 or above 0, and mistakes in one line with code 2."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from streamfer.errors import StreamferError
from streamfer_train.recipes.command import count

#: A whole number from 1; a type for argparse, as the others.
whole = partial(count, least=1)


def numbers(text: str) -> list[int]:
    """Return whole numbers from 1 with commas between them."""
    return [whole(part.strip()) for part in text.split(",")]


def above_zero(text: str) -> float:
    """Return a finite number above 0."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return float(text)


def asked(main: Callable[[], None]) -> None:
    """Run a benchmark; a file that is not there, or no film, set or network, ends in one line."""
    try:
        main()
    except (StreamferError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
