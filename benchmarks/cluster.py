"""What does Ray cost? Rate of 1 and 2 workers of a cluster against one process with ``--workers 1`` and ``2``.

    python benchmarks/cluster.py                                    # goal: Ray with 2 workers >= 0.9 of --workers 2
    python benchmarks/cluster.py --films 8 --seconds 60 --repeat 3 --picture docs/pictures/cluster.png

Every way annotates the same films in a process of its own, the ways in turn; what it takes to start (Ray, models) is
told by itself. The rate counts from when every worker has done its first film: seconds of video by the second. A worker
of Ray has one core; one process uses all that there are, whatever its workers. Other work on the machine blurs all of
it: quote ratios of one run, and its load.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("--workers 1", "--workers 2", "Ray, 1 worker", "Ray, 2 workers")


def annotate(way: str, films: Path, seconds: float) -> None:
    """Annotate ``films`` one way and print seconds of starting, seconds of everything, and the rate."""
    from streamfer.config import load_config
    from streamfer.threads import apply_environment, plan_threads

    config = load_config()
    apply_environment(plan_threads(config.threads))
    import streamfer

    workers = int("".join(filter(str.isdigit, way)))
    began = time.time()
    with tempfile.TemporaryDirectory() as out:
        cluster: dict[str, Any] = {"ray": "local"} if "Ray" in way else {}
        streamfer.annotate_folder(films, out, config, formats="csv", workers=workers, **cluster)
        whole = time.time() - began
        # Ray hands on what it has when it likes; a manifest is written when its film is done.
        ends = sorted(path.stat().st_mtime for path in Path(out).glob("*.streamfer.json"))
    rate = (len(ends) - workers) * seconds / (ends[-1] - ends[workers - 1])
    start = ends[workers - 1] - began - workers * seconds / rate
    print(f"{start:.1f} {whole:.1f} {rate:.3f}")


def draw(path: Path, rates: dict[str, list[float]]) -> None:
    """Draw the rates as bars, each run a dot."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    axes.barh(list(rates), [statistics.median(one) for one in rates.values()], color=["#9aa7b1"] * 2 + ["#2f6f9f"] * 2)
    for place, one in enumerate(rates.values()):
        axes.plot(one, [place] * len(one), "o", color="black", markersize=3)
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds of video a second, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=24.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        annotate(arguments.one, arguments.folder, arguments.seconds)
        return
    from clip import make_film

    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        film = make_film(Path(folder), arguments.seconds)
        for number in range(1, arguments.films):
            shutil.copy(film, film.with_stem(f"film{number}"))
        # Ray's workers give way to everything else (nice 15); here all ways get the same.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray reads it so
        for way in WAYS * arguments.repeat:
            command = [sys.executable, __file__, "--one", way, "--folder", folder, "--seconds", str(arguments.seconds)]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[way].append([float(word) for word in said.split()[-3:]])
            print(f"{way}: {found[way][-1]}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    print("| way | starts in | all of it | seconds of video a second |\n|---|---|---|---|")
    middle = {way: [statistics.median(column) for column in zip(*runs, strict=True)] for way, runs in found.items()}
    for way, (start, whole, rate) in middle.items():
        print(f"| {way} | {start:.1f} s | {whole:.1f} s | {rate:.2f} |")
    for ours, theirs in ((WAYS[2], WAYS[0]), (WAYS[3], WAYS[1]), (WAYS[3], WAYS[2])):
        print(f"{ours} over {theirs}: {middle[ours][2] / middle[theirs][2]:.2f}")
    if arguments.picture:
        draw(arguments.picture, {way: [run[2] for run in runs] for way, runs in found.items()})


if __name__ == "__main__":
    main()
