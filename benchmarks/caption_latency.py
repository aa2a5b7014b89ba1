"""What captions cost the labels: latency of labels without captions, with a captioner thread, and with a process.

    python benchmarks/caption_latency.py                             # a random decoder that writes token by token
    python benchmarks/caption_latency.py --captioner NAME --seconds 30 --rounds 5

A live source plays a film of faces at its own pace; a label's latency counts from its clip's last picture. Modes are
measured in turns, so that a machine that slows down slows all of them. Goal: with captions (every clip, in a process,
as streamfer runs them) the median latency is within 10 % of that without.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from streamfer.captions.protocol import CaptionerInfo, Keyframes, Writer
from streamfer.config import Config, load_config
from streamfer.threads import apply_environment, plan_threads
from streamfer.video.demo_film import FPS, film

MODES = ("off", "measured", "thread", "process")


class RandomDecoder:
    """Writes as language models do, one small step after another, with random weights; always the same work.

    Args:
        tokens: steps of a caption.
        width, layers: of the decoder.
    """

    def __init__(self, *, tokens: int, width: int, layers: int) -> None:
        import torch

        self._tokens = tokens
        layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, dropout=0.0)
        self._decoder = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()
        self._width = width
        from streamfer.geometry import EXP_BLIP_CROP

        self._info = CaptionerInfo(
            "random", "0" * 64, "none: random numbers", EXP_BLIP_CROP, True, tokens, 128, "cpu", "fp32"
        )

    @property
    def info(self) -> CaptionerInfo:
        """Identity of the model."""
        return self._info

    def close(self) -> None:
        """Nothing is held."""

    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
        """Take the steps of a batch of captions; questions are not read."""
        import torch

        del questions

        with torch.inference_mode():
            rows_BNW = torch.zeros(len(clips), 8, self._width)
            for _ in range(self._tokens):
                rows_BNW = self._decoder(rows_BNW)
        return ["random words"] * len(clips)

    def answer_yes_no(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> list[float]:
        """Answer nothing."""
        del questions
        return [0.5] * len(clips)


@dataclass(slots=True)
class Result:
    """Latencies of one mode, milliseconds, and the captions that were written and dropped."""

    latencies: list[float] = field(default_factory=list)
    captions: int = 0
    dropped: int = 0


class PacedSource:
    """A live source that plays the demo's film at its own pace, ``seconds`` long."""

    def __init__(self, seconds: float, pictures: Sequence[np.ndarray]) -> None:
        from fakes.video import FakeSource

        self._source = FakeSource(
            lambda number: pictures[number % len(pictures)], count=round(seconds * FPS), fps=FPS, live=True
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def stream(self, wanted: Any = None) -> Iterator[Any]:
        """Yield what the source yields, each frame when it is due."""
        began = time.monotonic()

        def paced(epoch: int, seconds: float, index: int) -> bool:
            time.sleep(max(0.0, began + index / FPS - time.monotonic()))
            return bool(wanted is None or wanted(epoch, seconds, index))

        yield from self._source.stream(paced)


def writer_of(mode: str, options: argparse.Namespace, threads: int) -> Writer | None:
    """Return the writer of a mode."""
    from streamfer.captions.writers import MeasuredWriter, ModelWriter
    from streamfer.config import CaptionsConfig

    if mode == "off":
        return None
    if mode == "measured":
        return MeasuredWriter()
    return ModelWriter(captioner_of(mode, options, threads), CaptionsConfig())


def captioner_of(mode: str, options: argparse.Namespace, threads: int) -> Any:
    """Return the captioner of a mode."""
    from streamfer.captions.process import LOADER, ProcessCaptioner

    random = {"tokens": options.tokens, "width": options.width, "layers": options.layers}
    if mode == "process":
        if options.captioner:
            return ProcessCaptioner({"name_or_path": options.captioner}, threads=threads, loader=LOADER)
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)
        return ProcessCaptioner(random, threads=threads, loader="caption_latency:RandomDecoder")
    if options.captioner:
        from streamfer.captions import load_captioner

        return load_captioner(options.captioner)
    return RandomDecoder(**random)


def measure(config: Config, models: Any, pictures: Sequence[np.ndarray], seconds: float, result: Result) -> None:
    """Run the pipeline once and add what it took."""
    from streamfer.build import build_pipeline
    from streamfer.pipeline.events import SourceDone
    from streamfer.records import ClipLabelled, Record

    source: Any = PacedSource(seconds, pictures)
    for event in build_pipeline(config, models, live=True).events([source]):
        if isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            result.latencies.append(event.data.latency_ms.total)
        elif isinstance(event, SourceDone):
            result.captions += event.stats.captions
            result.dropped += event.stats.captions_dropped


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captioner", help="a captioner by name; a random decoder if not given")
    parser.add_argument("--seconds", type=float, default=20.0, help="of video a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--threads", type=int, help="cores for everything together")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--tokens", type=int, default=60, help="steps of a random caption")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    budget = plan_threads(options.threads)
    apply_environment(budget)
    from streamfer.build import load_all

    settings = {"faces.detector": options.detector, "threads": options.threads, "captions.when": "all"}
    config = load_config(None, settings, {})
    models = load_all(config)
    pictures = list(film())
    modes = options.modes.split(",")
    loaded = {mode: replace(models, writer=writer_of(mode, options, max(1, budget.total // 4))) for mode in modes}
    results = {mode: Result() for mode in modes}
    for _ in range(options.rounds):
        for mode in modes:
            measure(config, loaded[mode], pictures, options.seconds, results[mode])
    now = datetime.datetime.now(datetime.UTC)
    print(f"{platform.processor() or platform.machine()}, {budget.total} cores, {now:%Y-%m-%d}\n")
    print("| captions | labels | median, ms | 95 %, ms | against off | captions | dropped |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    base = statistics.median(results[modes[0]].latencies)
    for mode, result in results.items():
        median = statistics.median(result.latencies)
        late = float(np.percentile(result.latencies, 95))
        print(
            f"| {mode} | {len(result.latencies)} | {median:.1f} | {late:.1f} | {median / base - 1:+.1%} | "
            f"{result.captions} | {result.dropped} |"
        )


if __name__ == "__main__":
    main()
