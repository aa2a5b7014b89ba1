"""Where the time of one file goes: each stage alone, and the whole pipeline against decoding and its slowest stage.

    python benchmarks/clip.py                      # a film made from packaged pictures
    python benchmarks/clip.py interview.mp4 --fps 25 --detector centerface --threads 2

Prints a Markdown table. Numbers are medians over ``--repeats`` runs in this process; quote ratios, since machines
differ and are noisy. Goals on two cores: the pipeline's time over the sum of its stages alone <= 1.1, and over the busy
time of its slowest stage <= 1.1.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from asked import above_zero, asked, whole
from numpy.typing import NDArray

from streamfer.config import load_config
from streamfer.faces.search import SearchMode
from streamfer.threads import apply_environment, plan_threads
from streamfer.video.demo_film import FPS, film


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, how much of it a second, and remarks."""

    name: str
    rate: str
    seconds: float
    remark: str = ""


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median elapsed seconds of ``work`` after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def sampled(fps: float) -> Callable[[int, float, int], bool]:
    """Return what accepts the frames of a film that are analysed."""
    from streamfer.video import TimeSampler

    sampler = TimeSampler(fps)
    return lambda _epoch, seconds, _index: sampler.tick(seconds) is not None


def make_film(folder: Path, seconds: float) -> Path:
    """Write the demo's film, repeated to about ``seconds``."""
    from streamfer.video.encode import write_video

    frames = list(film())
    path = folder / "film.mp4"
    write_video(path, (frames[index % len(frames)] for index in range(round(seconds * FPS))), FPS)
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", help="a file; a film from packaged pictures when not given")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--fps", type=above_zero, help="frames a second that are analysed; usual if unset")
    parser.add_argument("--threads", type=whole)
    parser.add_argument("--repeats", type=whole, default=3)
    parser.add_argument("--film-seconds", type=above_zero, default=24.0)
    parser.add_argument("--picture", type=Path, help="where a chart of the stages' busy time goes")
    arguments = parser.parse_args()
    config = load_config(
        None,
        {
            "faces.detector": arguments.detector,
            "model.name": arguments.model,
            "sampling.fps": arguments.fps,
            "threads": arguments.threads,
        },
    )
    apply_environment(plan_threads(config.threads))
    from streamfer.build import load_all

    models = load_all(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(arguments.video) if arguments.video else make_film(Path(folder), arguments.film_seconds)
        bench = Bench(path, config, models, arguments.repeats)
        rows = [*bench.stages(), *bench.pipeline()]
        if arguments.picture:
            draw(bench.busy, len(bench.frames), arguments.picture)
    info = models.expression.info
    print(
        f"\n{datetime.date.today()} · {cpu_name()} · {models.budget.total} cores · Python {platform.python_version()}"
    )
    print(f"`{path.name}` · detector {models.detector.name} · model {info.name}, {info.precision}\n")
    print("| what | rate | seconds | remark |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.rate} | {row.seconds:.2f} | {row.remark} |")


class Bench:
    """The measurements on one file."""

    def __init__(self, path: Path, config, models, repeats: int) -> None:  # type: ignore[no-untyped-def]
        from streamfer.video import find_sources

        self._spec = find_sources([str(path)])[0]
        self._config, self._models, self._repeats = config, models, repeats
        self.frames: list[NDArray[np.uint8]] = []
        self.busy: dict[str, float] = {}
        self._crops: NDArray[np.uint8] = np.zeros((0, 1, 1, 3), np.uint8)
        self._alone = 0.0

    def stages(self) -> Iterator[Row]:
        """Each stage by itself, on what it would get in the pipeline."""
        from streamfer.faces import crop_faces

        decoded = self._decode(lambda *_: True)
        seconds = median_seconds(lambda: self._decode(lambda *_: True), self._repeats)
        yield Row("decode all frames to RGB", f"{decoded / seconds:.0f} frames/s", seconds)
        sampling = self._config.sampling.fps
        seconds = median_seconds(lambda: self._decode(sampled(sampling)), self._repeats)
        yield Row("decode only", f"{decoded / seconds:.0f} frames/s", seconds, f"RGB for {sampling:g} frames/s only")
        self._decode_alone = seconds
        self._alone += seconds
        self._keep_sampled()
        found = self._models.detector.detect(self.frames)
        count = len(self.frames)
        seconds = median_seconds(lambda: self._faces("full"), self._repeats)
        yield Row("find and track faces, whole frames", f"{count / seconds:.0f} frames/s", seconds)
        seconds = median_seconds(lambda: self._faces("follow"), self._repeats)
        share = self._search.whole / count
        yield Row("… followed", f"{count / seconds:.0f} frames/s", seconds, f"{share:.0%} of the frames whole")
        self._alone += seconds
        profile = self._models.expression.info.crop
        pairs = list(zip(self.frames, found, strict=True))
        self._crops = np.concatenate([crop_faces(f, d.boxes, d.landmarks, profile) for f, d in pairs])
        seconds = median_seconds(
            lambda: [crop_faces(f, d.boxes, d.landmarks, profile) for f, d in pairs], self._repeats
        )
        yield Row("align and crop only", f"{len(self._crops) / seconds:.0f} faces/s", seconds)
        self._alone += seconds
        seconds = median_seconds(self._encode, self._repeats)
        yield Row("encode only", f"{len(self._crops) / seconds:.0f} faces/s", seconds)
        self._alone += seconds

    def pipeline(self) -> Iterator[Row]:
        """The whole, against its parts."""
        elapsed: list[float] = []
        busy: list[float] = []
        slowest: list[float] = []
        used: list[float] = []
        name = ""
        clips = 0
        for _ in range(self._repeats + 1):
            began, used_before = time.perf_counter(), time.process_time()
            clips, stages = self._run()
            elapsed.append(time.perf_counter() - began)
            used.append((time.process_time() - used_before) / len(os.sched_getaffinity(0)))
            busy.append(sum(stages.values()))
            name = max(stages, key=lambda stage: stages[stage])
            slowest.append(stages[name])
            self.busy = stages
        total = statistics.median(elapsed[1:])
        yield Row("whole pipeline", f"{self._decoded / total:.0f} frames/s", total, f"{clips} clips")
        yield Row("… over the sum of its stages alone", f"{total / self._alone:.2f}", self._alone, "goal ≤ 1.1")
        ratio = statistics.median(e / b for e, b in zip(elapsed[1:], busy[1:], strict=True))
        yield Row("… over its stages' busy time", f"{ratio:.2f}", statistics.median(busy[1:]))
        ratio = statistics.median(e / b for e, b in zip(elapsed[1:], slowest[1:], strict=True))
        yield Row(f"… over its slowest stage's ({name})", f"{ratio:.2f}", statistics.median(slowest[1:]), "goal ≤ 1.1")
        ratio = statistics.median(e / u for e, u in zip(elapsed[1:], used[1:], strict=True))
        yield Row("… over its processor time, shared by all cores", f"{ratio:.2f}", statistics.median(used[1:]))
        yield Row("… over decoding alone", f"{total / self._decode_alone:.1f}", self._decode_alone)

    def _decode(self, wanted: Callable[[int, float, int], bool]) -> int:
        from streamfer.video import open_source

        source = open_source(self._spec, decode_threads=self._models.budget.decode)
        for _ in source.stream(wanted):
            pass
        self._decoded = source.frames_decoded
        return self._decoded

    def _keep_sampled(self) -> None:
        from streamfer.video import Frame, open_source

        source = open_source(self._spec, decode_threads=self._models.budget.decode)
        stream = source.stream(sampled(self._config.sampling.fps))
        self.frames = [item.image for item in stream if isinstance(item, Frame)]

    def _faces(self, mode: SearchMode) -> None:
        from streamfer.faces import FaceTracker
        from streamfer.faces.search import FaceSearch

        tracker = FaceTracker(self._config.sampling.fps)
        self._search = FaceSearch(mode, tracker)
        for frame in self.frames:
            tracker.update(frame, self._search.detect(self._models.detector, frame))

    def _encode(self) -> None:
        batch = self._config.model.batch_size
        for at in range(0, len(self._crops), batch):
            self._models.expression.encode(self._crops[at : at + batch])

    def _run(self) -> tuple[int, dict[str, float]]:
        from streamfer.build import build_pipeline
        from streamfer.pipeline.events import SourceDone
        from streamfer.video import open_source

        running = build_pipeline(self._config, self._models, live=False)
        clips = 0
        for event in running.events([open_source(self._spec, decode_threads=self._models.budget.decode)]):
            if isinstance(event, SourceDone):
                clips = event.stats.clips
        return clips, running.clock.seconds


def draw(busy: dict[str, float], frames: int, path: Path) -> None:
    """Draw what each stage takes of an analysed frame, thread by thread."""
    from matplotlib import pyplot as plt

    threads = {
        "reader": ["decode"],
        "analyser": ["detect", "track", "crop"],
        "model": ["encode", "classify"],
    }
    figure, axes = plt.subplots(figsize=(7, 2.2), layout="constrained")
    for row, stages in enumerate(threads.values()):
        left = 0.0
        for stage in stages:
            width = 1000 * busy.get(stage, 0.0) / frames
            axes.barh(row, width, left=left, edgecolor="white")
            if width > 0.3:
                axes.text(left + width / 2, row, f"{stage}\n{width:.1f}", ha="center", va="center", fontsize=8)
            left += width
    axes.set(xlabel="milliseconds an analysed frame", yticks=range(len(threads)), yticklabels=list(threads))
    axes.invert_yaxis()
    figure.savefig(path, dpi=120)


def cpu_name() -> str:
    """Return the processor's name as Linux states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    asked(main)
