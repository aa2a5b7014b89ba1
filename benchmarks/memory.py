"""Does memory stay flat? Peak resident memory of annotating a one-minute and a ten-minute video.

    python benchmarks/memory.py                  # prints both peaks and their ratio; goal: within 10 %

Each length runs in a process of its own, since a peak never falls again.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

MINUTE = 60.0


def annotate(path: Path) -> None:
    """Annotate ``path`` in this process and print its peak resident memory in MiB."""
    from streamfer.config import load_config
    from streamfer.threads import apply_environment, plan_threads

    config = load_config()
    apply_environment(plan_threads(config.threads))
    from streamfer.api import Session

    with tempfile.TemporaryDirectory() as folder, Session(config) as session:
        stats = session.annotate_folder(path, folder).done[0].stats
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{peak:.1f} {stats.clips} {stats.seconds:.1f}")


def main() -> None:
    """Measure both lengths and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs=2, default=[1.0, 10.0])
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        annotate(arguments.one)
        return
    from end_to_end import make_film

    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in arguments.minutes:
            film = make_film(Path(folder), minutes * MINUTE)
            command = [sys.executable, __file__, "--one", str(film)]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            peak, clips, seconds = result.stdout.split()[-3:]
            peaks.append(float(peak))
            print(f"{minutes:g} min: peak {peak} MiB, {clips} clips, {seconds} s analysed")
    print(f"ratio {peaks[1] / peaks[0]:.3f} (goal: at most 1.10)")


if __name__ == "__main__":
    main()
