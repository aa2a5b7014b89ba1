"""Does a long video cost more than a short one? Peak memory and rate of annotating one minute and one hour.

    python benchmarks/memory.py                        # goals: peaks within 10 %, rate of the end >= 0.95 of the start
    python benchmarks/memory.py --minutes 1 10

The hour is one minute of the demo's film again and again, its packets copied. Each length runs in a process of its own,
since a peak never falls again. The rate is that of the last minute against the first (the second is printed, too):
analysed frames by the second, of processor time (all threads: other work on the machine does not blur it) and of time.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MINUTE = 60.0


def repeat(minute: Path, times: int) -> Path:
    """Write a film ``times`` over, each packet copied as it is."""
    import av

    path = minute.with_name(f"{times}.mp4")
    listed = minute.with_suffix(".txt")
    listed.write_text(f"file '{minute.name}'\n" * times)
    with av.open(str(listed), format="concat") as parts, av.open(str(path), "w") as film:
        stream = film.add_stream_from_template(parts.streams.video[0])
        for packet in parts.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                film.mux(packet)
    return path


def annotate(path: Path) -> None:
    """Annotate ``path`` in this process and print peak MiB, clips, seconds, and the rates of its minutes."""
    from streamfer.config import load_config
    from streamfer.threads import apply_environment, plan_threads

    config = load_config()
    apply_environment(plan_threads(config.threads))
    from streamfer.api import Session
    from streamfer.pipeline.events import FrameFaces

    minutes: list[list[float]] = []

    def watch(event: Any) -> None:
        if isinstance(event, FrameFaces):
            if len(minutes) <= event.seconds // MINUTE:
                minutes.append([0, time.process_time(), time.perf_counter(), 0.0, 0.0])
            one = minutes[-1]
            one[0] += 1
            one[3:] = time.process_time(), time.perf_counter()

    with tempfile.TemporaryDirectory() as folder, Session(config) as session:
        stats = session.annotate_folder(path, folder, watch=watch).done[0].stats
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    whole = [one for one in minutes if one[0] > 10]
    for first, second, last in [(whole[0], whole[min(1, len(whole) - 1)], whole[-1])]:
        rates = [one[0] / (one[end + 2] - one[end]) for end in (1, 2) for one in (first, second, last)]
    print(f"{peak:.1f} {stats.clips} {stats.seconds:.1f}", *(f"{rate:.2f}" for rate in rates))


def main() -> None:
    """Measure both lengths and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, nargs=2, default=[1, 60])
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        annotate(arguments.one)
        return
    from clip import make_film

    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        minute = make_film(Path(folder), MINUTE)
        for minutes in arguments.minutes:
            command = [sys.executable, __file__, "--one", str(repeat(minute, minutes))]
            began = time.perf_counter()
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            peak, clips, seconds, *rates = result.stdout.split()[-9:]
            peaks.append(float(peak))
            print(f"{minutes} min: peak {peak} MiB, {clips} clips, {seconds} s analysed", end=" ")
            print(f"in {time.perf_counter() - began:.0f} s; load {os.getloadavg()[2]:.1f}", flush=True)
        for name, (first, second, last) in (("processor time", rates[:3]), ("time", rates[3:])):
            print(
                f"frames a second of {name}: first minute {first}, second {second}, last {last}; last over first "
                f"{float(last) / float(first):.3f} (goal: at least 0.95)"
            )
    print(f"peak over peak {peaks[1] / peaks[0]:.3f} (goal: at most 1.10)")


if __name__ == "__main__":
    main()
