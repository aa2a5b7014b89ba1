"""What the live page costs a browser: processor time of its renderer and size of its heap, while many people are shown.

    python benchmarks/page.py [--minutes 10] [--sources 16] [--people 4] [--rate 5] [--width 1280]

A real Redis, the real server and a headless Chromium; ten minutes of records are there before it begins, since the
page keeps as many. ``--rate`` is records a second of each person. Prints a Markdown table with a row every half minute
and, last, the whole: shares are of one core, the heap is what is left after a collection. One person's curves are open.
Needs the extra ``serve``, playwright and Chromium.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from record_examples import labelled, span

from streamfer.config import load_config
from streamfer.publish import Publisher
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.records import Record
from streamfer.serve.dashboard import serving

UNITS = [
    f"AU{number:02}" for number in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 20, 22, 23, 24, 25, 26, 43)
]
LABELS = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
_ROW_SECONDS = 30.0
_HISTORY_SECONDS = 600.0
_HISTORY_RATE = 2.0  # as many as the page keeps of faster ones


def people(sources: int, each: int) -> list[list[Record]]:
    """Return for each person some records that differ, as of the built-in model."""
    chance = random.Random(1)

    def record(source: int, person: int) -> Record:
        weights = [chance.random() ** 4 for _ in LABELS]
        emotions = {name: weight / sum(weights) for name, weight in zip(LABELS, weights, strict=True)}
        top = max(emotions, key=emotions.__getitem__)
        units = {unit: round(chance.random() ** 3, 3) for unit in UNITS}
        document = labelled(
            span(), track=person, track_id=f"{source}-{person}", emotions=emotions, top=top, action_units=units,
            action_units_peak=units,
        )  # fmt: skip
        return Record.of(document, source_id=f"camera-{source:02}")

    return [[record(source, person) for _ in range(20)] for source in range(sources) for person in range(1, each + 1)]


def one_of(variants: list[Record], moment: float) -> Record:
    """Return one of a person's records as if it were of that Unix time."""
    when = datetime.fromtimestamp(moment, UTC)
    return replace(random.choice(variants), id=uuid.uuid4().hex, recordedtime=when, sequence=None)


def renderers() -> list[psutil.Process]:
    """Return the processes that draw pages and their pictures."""
    every = psutil.Process().children(recursive=True)
    return [one for one in every if any(word in " ".join(one.cmdline()) for word in ("type=renderer", "type=gpu"))]


def seconds_of(kind: str) -> float:
    """Return the processor seconds of a kind of the browser's processes so far."""
    spent = [one.cpu_times() for one in renderers() if f"type={kind}" in " ".join(one.cmdline())]
    return sum(times.user + times.system for times in spent)


def live(publisher: Publisher, everybody: list[list[Record]], rate: float, seconds: float) -> Iterator[int]:
    """Publish at a steady rate; yield how many records that were, every half minute."""
    begun = row = time.monotonic()
    beat, published = 0.0, 0
    step = 1 / rate
    while (now := time.monotonic()) < begun + seconds:
        if now > beat + 10:
            beat = now
            names = {variants[0].subject for variants in everybody}
            publisher.heartbeat({name: {"state": "online", "lag": 0.3} for name in names})
        publisher.publish_many([one_of(variants, time.time()) for variants in everybody])
        published += len(everybody)
        if now > row + _ROW_SECONDS:
            row = now
            yield published
        time.sleep(max(0.0, now + step - time.monotonic()))
    yield published


def measure(page: Any, publisher: Publisher, everybody: list[list[Record]], rate: float, minutes: float) -> None:
    """Print a row every half minute, and the whole."""
    session = page.context.new_cdp_session(page)

    def heap() -> float:
        session.send("HeapProfiler.collectGarbage")
        return float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6

    def spent() -> tuple[float, float, float]:
        return time.monotonic(), seconds_of("renderer"), seconds_of("gpu")

    def row(name: str, since: tuple[float, float, float], size: float) -> tuple[float, float, float]:
        now = spent()
        shares = [(after - before) / (now[0] - since[0]) for before, after in zip(since[1:], now[1:], strict=True)]
        print(f"| {name} | {shares[0]:.1%} | {shares[1]:.1%} | {size:.1f} |", flush=True)
        return now

    print("| seconds | renderer | drawing process | heap, MB |\n|---|---|---|---|")
    first = heap()
    begun = before = spent()
    published = 0
    for published in live(publisher, everybody, rate, minutes * 60):  # noqa: B007  # the last number stays
        before = row(f"{time.monotonic() - begun[0]:.0f}", before, heap())
    rate = published / (time.monotonic() - begun[0])
    row(f"whole, {rate:.0f} records a second; heap {first:.1f} MB at the begin", begun, heap())


def main() -> None:
    """Fill ten minutes, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--sources", type=int, default=16)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--rate", type=float, default=5)
    parser.add_argument("--width", type=int, default=1280)
    wanted = parser.parse_args()
    everybody = people(wanted.sources, wanted.people)
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis.start(Path(folder)) as server:
        config = load_config(None, {"publish.redis": server.url, "serve.address": "0"}, {})
        with Publisher.open(config.publish) as publisher, serving(config) as url, sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": wanted.width, "height": 900})
            page.goto(url)
            now = time.time()
            for at in range(int(_HISTORY_SECONDS * _HISTORY_RATE)):
                moment = now - _HISTORY_SECONDS + at / _HISTORY_RATE
                publisher.publish_many([one_of(variants, moment) for variants in everybody])
            page.wait_for_function(f"document.querySelectorAll('.person').length == {len(everybody)}", timeout=600_000)
            page.locator(".person").first.click()
            page.wait_for_timeout(5_000)
            measure(page, publisher, everybody, wanted.rate, wanted.minutes)
            browser.close()


if __name__ == "__main__":
    main()
