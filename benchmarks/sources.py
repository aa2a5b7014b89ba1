"""How many cameras a machine follows: latency and dropped frames by their number.

    python benchmarks/sources.py [--cameras 1,2,4,6,8,12] [--seconds 20] [--search follow] [--picture cameras.png]

Every camera shows the demo's film at 640 x 360, one and six faces, 25 frames a second in real time, each from another
moment on; 8 frames a second are analysed. Decoding is not part of it: pictures lie in memory. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from asked import above_zero, asked, numbers, whole

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fakes.video import FakeSource, Picture

from streamfer.build import build_pipeline, load_all
from streamfer.config import load_config
from streamfer.pipeline.events import SourceDone
from streamfer.records import ClipLabelled
from streamfer.threads import apply_environment, plan_threads
from streamfer.video.demo_film import FPS, film
from streamfer.video.frames import Frame, FrameFilter, StateChange


class Camera(FakeSource):
    """A film in real time, again and again, from a moment of its own on."""

    def __init__(self, pictures: list[Picture], name: str, offset: int, seconds: float) -> None:
        turned = pictures[offset:] + pictures[:offset]
        super().__init__(turned, count=round(seconds * FPS), fps=FPS, source_id=name, live=True, start_time=time.time())

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        """As its parent, but no frame before its time."""
        began = time.perf_counter()

        def due(epoch: int, seconds: float, index: int) -> bool:
            time.sleep(max(0.0, began + index / FPS - time.perf_counter()))
            return wanted is None or wanted(epoch, seconds, index)

        yield from super().stream(due)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=numbers, default="1,2,4,6,8,12")
    parser.add_argument("--seconds", type=above_zero, default=20.0)
    parser.add_argument("--search", default="follow", choices=("follow", "full"))
    parser.add_argument("--detector", default="builtin")
    parser.add_argument("--threads", type=whole)
    parser.add_argument("--picture", type=Path, help="where a chart goes")
    wanted = parser.parse_args()
    settings = {"faces.detector": wanted.detector, "faces.search": wanted.search, "threads": wanted.threads}
    config = load_config(None, settings)
    apply_environment(plan_threads(config.threads))
    pictures = [np.asarray(cv2.resize(frame, (640, 360), interpolation=cv2.INTER_AREA), np.uint8) for frame in film()]
    rows = []
    print("| cameras | analysed a second | dropped | latency, median ms | 95 % | clips |\n|---|---|---|---|---|---|")
    for count in wanted.cameras:
        models = load_all(config, count)
        steps = len(pictures) // count
        cameras = [Camera(pictures, f"camera {one}", one * steps, wanted.seconds) for one in range(count)]
        waits: list[float] = []
        analysed = dropped = 0
        for event in build_pipeline(config, models, live=True).events(cameras):
            if isinstance(event, SourceDone):
                analysed, dropped = analysed + event.stats.frames_analysed, dropped + event.stats.frames_dropped
            elif isinstance(data := getattr(event, "data", None), ClipLabelled):
                waits.append(data.latency_ms.total)
        middle, late = np.percentile(waits, [50, 95]) if waits else (np.nan, np.nan)
        share = dropped / max(1, analysed + dropped)
        rows.append((count, middle, late, share))
        rate = analysed / wanted.seconds
        print(f"| {count} | {rate:.1f} | {share:.1%} | {middle:.0f} | {late:.0f} | {len(waits)} |", flush=True)
    if wanted.picture:
        draw(rows, wanted.picture)


def draw(rows: list[tuple[int, float, float, float]], path: Path) -> None:
    """Draw latency and drops over the number of cameras."""
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(6, 5), layout="constrained")
    cameras, middle, late, dropped = zip(*rows, strict=True)
    upper.plot(cameras, middle, "o-", label="median")
    upper.plot(cameras, late, "o--", label="95 %")
    upper.set(ylabel="latency, ms", ylim=(0, None))
    upper.legend()
    lower.plot(cameras, [100 * share for share in dropped], "o-")
    lower.set(xlabel="cameras, 640 x 360, 8 frames a second", ylabel="frames dropped, %", ylim=(0, None))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    asked(main)
