"""How long a command takes before it does its work: seconds from the start of the process.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --against ../before

``--against`` measures another checkout in turn with this one, in the same run, so that the ratio holds on a machine
that is busy with other things; that checkout's environment must be this one's. The goals are for two quiet cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
#: Seconds that each may take on two quiet cores.
GOALS = {"--help": 1.0, "tail": 1.0, "finished file": 1.5, "first label": 6.0, "doctor": 6.0}
FILM_SECONDS = 2.4
#: Runs the command line of a checkout, whichever one the environment has installed to be edited.
_PROGRAM = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path[:0] = {}
from streamfer.cli import main
main()
"""


def make_film(folder: Path) -> Path:
    """Write a short film of a real face: two and a half seconds, 240 pixels square."""
    import numpy as np
    from skimage import data

    from streamfer.video import write_video

    face = np.ascontiguousarray(data.astronaut()[:240, 100:340])
    frames = (np.roll(face, number % 3, axis=1) for number in range(round(25 * FILM_SECONDS)))
    path = folder / "short.mp4"
    write_video(path, frames, 25)
    return path


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with folders of its own."""
    return {
        **os.environ,
        "STREAMFER_REDIS_FOLDER": str(folder / "redis"),
        "STREAMFER_HOME": str(folder / "home"),
    }


def seconds(command: list[str], variables: dict[str, str], until: Callable[[str], bool] | None = None) -> float:
    """Return how long a command runs, or takes until a line of its output is the one looked for."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tempfile.gettempdir()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if until is not None and until(line):
                elapsed = time.perf_counter() - began
                process.terminate()
                return elapsed
    return time.perf_counter() - began


def measure(checkout: Path, folder: Path, film: Path, what: str) -> float:
    """Return the seconds of one of :data:`GOALS` with a checkout."""
    variables = environment(folder)
    program = [sys.executable, "-c", _PROGRAM.format([str(checkout / place) for place in ("", "kernels", "train")])]
    out = str(folder / f"tables of {checkout.name}")
    if what == "--help":
        return seconds([*program, "--help"], variables)
    if what == "tail":
        # A tenth of a second of it is waiting for records.
        return seconds([*program, "tail", "--from", "start", "--idle", "0.1"], variables)
    if what == "finished file":
        return seconds([*program, "annotate", str(film), "-o", out, "-q"], variables)
    if what == "first label":
        return seconds([*program, "run", str(film)], variables, lambda line: "█" in line or "░" in line)
    return seconds([*program, "doctor"], variables)


def main() -> None:
    """Measure everything in turn, and print the least of several times beside its goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--times", type=int, default=3, help="how often; the least counts")
    parser.add_argument("--only", choices=GOALS, action="append", help="measure this alone; repeatable")
    arguments = parser.parse_args()
    checkouts = [HERE, *([arguments.against.resolve()] if arguments.against else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = make_film(folder)
        for checkout in checkouts:
            # The file is finished, and the server's folder made, before anything counts.
            measure(checkout, folder, film, "finished file")
            measure(checkout, folder, film, "tail")
        print(f"{'seconds':<14} {'goal':>5} {'here':>6}" + f" {'there':>6} {'ratio':>6}" * (len(checkouts) - 1))
        for what in arguments.only or GOALS:
            goal = GOALS[what]
            found = {one: [measure(one, folder, film, what)] for one in checkouts}
            for _ in range(arguments.times - 1):
                for one, times in found.items():
                    times.append(measure(one, folder, film, what))
            here, *there = (min(times) for times in found.values())
            print(
                f"{what:<14} {goal:>5.1f} {here:>6.2f}" + "".join(f" {one:>6.2f} {here / one:>6.2f}" for one in there)
            )


if __name__ == "__main__":
    main()
