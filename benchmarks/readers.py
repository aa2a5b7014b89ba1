"""Which reader serves which case: PyAV against decord, file by file.

    python benchmarks/readers.py VIDEO_OR_FOLDER... [--repeat 3] [--output docs/results/readers.md]

Each reader and file is measured in a process of its own with one decoding thread: opening, all frames in order (in
pieces of 32), the 16 segment centres, and 16 random frames, each the median of the repeats, in milliseconds of
processor time (of all threads: other work on the machine does not blur it), and the process's peak memory above
its start. "frames" compares count and pixels with decoding in order by PyAV.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from streamfer.errors import SourceError
from streamfer.video import Frame, PyAvReader, SourceSpec, find_sources, open_reader, open_source, segment_centres

READERS = ("pyav", "decord")
PIECE = 32


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds per job, megabytes of peak memory above the start, and what became of the frames."""

    open_ms: float
    all_ms: float
    centres_ms: float
    random_ms: float
    memory_mb: float
    frames: str


def measure(spec: SourceSpec, reader_name: str, repeat: int) -> Result | str:
    """Measure one reader on one file; a string says why it cannot read it."""
    before = peak_mb()
    try:
        # The first opening pays for the import of the library.
        open_reader(spec, reader_name).close()  # type: ignore[arg-type]
        opened = [timed(lambda: open_reader(spec, reader_name).close()) for _ in range(repeat)]  # type: ignore[arg-type]
        reader = open_reader(spec, reader_name)  # type: ignore[arg-type]
        count = len(reader)
        some = random.Random(0).choices(range(count), k=16)
        jobs: list[Callable[[], object]] = [
            lambda: in_order(reader, count),
            lambda: reader.read(segment_centres(count)),
            lambda: reader.read(some),
        ]
        all_ms, centres_ms, random_ms = (statistics.median(timed(job) for _ in range(repeat)) for job in jobs)
        memory = peak_mb() - before
        frames = compare(spec, reader)
    except SourceError as error:
        return str(error).partition(": ")[2].partition(";")[0]
    return Result(statistics.median(opened), all_ms, centres_ms, random_ms, memory, frames)


def in_order(reader: PyAvReader, count: int) -> None:
    for start in range(0, count, PIECE):
        reader.read(range(start, min(start + PIECE, count)))


def compare(spec: SourceSpec, reader: PyAvReader) -> str:
    """Compare count and pixels with what a FileSource decodes in order."""
    expected = [item.image for item in open_source(spec).stream() if isinstance(item, Frame)]
    shared = range(min(len(expected), len(reader)))
    wrong = sum(not np.array_equal(reader.read([index])[0], expected[index]) for index in sample(shared))
    said = [] if len(reader) == len(expected) else [f"{len(reader)} instead of {len(expected)}"]
    if wrong:
        said.append(f"{wrong} of {len(sample(shared))} differ")
    return ", ".join(said) or "equal"


def sample(indices: range) -> Sequence[int]:
    """At most 24 numbers spread over all, the last one included."""
    return sorted({indices[round(place)] for place in np.linspace(0, len(indices) - 1, 24)})


def timed(job: Callable[[], object]) -> float:
    began = time.process_time()
    job()
    return (time.process_time() - began) * 1000


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_own_process(spec: SourceSpec, reader_name: str, repeat: int) -> Result | str:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (spec, reader_name, repeat))


def table(specs: Sequence[SourceSpec], repeat: int) -> str:
    lines = [
        "| file | reader | open ms | all in order ms | 16 centres ms | 16 random ms | peak MB | frames |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for spec in specs:
        for name in READERS:
            result = in_own_process(spec, name, repeat)
            cells = (
                f"– | – | – | – | – | {result}"
                if isinstance(result, str)
                else f"{result.open_ms:.1f} | {result.all_ms:.0f} | {result.centres_ms:.0f} | {result.random_ms:.0f} "
                f"| {result.memory_mb:.0f} | {result.frames}"
            )
            lines.append(f"| {spec.source_id} | {name} | {cells} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def circumstances() -> str:
    cpu = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return (
        f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"PyAV {version('av')}, decord {version('decord')}, one decoding thread."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    print(circumstances())
    found = table(find_sources(options.paths), options.repeat)
    if options.output:
        options.output.write_text(f"{circumstances()}\n\n{found}\n")


if __name__ == "__main__":
    main()
