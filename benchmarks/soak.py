"""A run of many minutes under faults: what grows, and whether a subscriber gets everything once.

    python benchmarks/soak.py --minutes 120 [--out soak]

Runs `streamfer run` with captions against a real Redis and real RTSP cameras: one that stays, one that ends every few
seconds (reconnects), one that is killed and frozen, and addresses at which nobody answers (failed opens). Meanwhile
Redis is stopped, killed and frozen, and sources are added, paused, changed and removed over HTTP. Every few seconds it
takes memory, descriptors, threads, processes, lag, queues and counts into samples.csv, draws them, and says what grew
from the first third after the warm-up to the last. At the end it compares the records with their numbers. Needs
Debian's GStreamer bindings (see tests/rtsp_server.py).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import httpx2
import psutil
import redis

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from conftest import RtspServer

from streamfer.publish.embedded import server_executable
from streamfer.video import write_video
from streamfer.video.demo_film import film

TOKEN = "a token of the soak"  # noqa: S105  (no secret)
SAMPLE_SECONDS = 5.0
WARM_UP = 0.1
SERIES = ("rss_mb", "children_mb", "descriptors", "threads", "processes", "lag_s", "spool_mb")
#: What may grow from the first third to the last.
LIMITS = {"rss_mb": 1.02, "children_mb": 1.02, "descriptors": 1.0, "threads": 1.0, "processes": 1.0}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Redis:
    """A server that is restarted."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        folder.mkdir()
        self.start()

    def start(self) -> None:
        words = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--appendonly",
            "yes",
            "--save",
            "",
            "--dir",
            self._folder,
        ]
        self._process = subprocess.Popen([str(server_executable()), *map(str, words)], stdout=subprocess.DEVNULL)

    def restart(self, number: int, away: float) -> None:
        self._process.send_signal(number)
        self._process.wait()
        time.sleep(away)
        self.start()

    def freeze(self, seconds: float) -> None:
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Operator:
    """Asks the run over HTTP, as an operator would; what it refuses ends the soak."""

    def __init__(self, port: int) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers=headers,
            timeout=60,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    def ready(self) -> bool:
        with suppress(httpx2.TransportError):
            return self._client.get("/readyz").status_code == 200
        return False

    def alive(self) -> str:
        answer = self._client.get("/livez")
        return "" if answer.status_code == 200 else answer.text

    def ask(self, method: str, path: str = "", **body: Any) -> None:
        answer = self._client.request(method, f"/v1/sources{path}", json=body or None)
        if answer.status_code >= 400:
            raise SystemExit(f"{method} {path}: {answer.text}")

    def metrics(self) -> dict[str, float]:
        lines = [line for line in self._client.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def total(numbers: dict[str, float], name: str, *labels: str) -> float:
    return sum(value for key, value in numbers.items() if key.startswith(name) and all(one in key for one in labels))


def sample(process: psutil.Process, numbers: dict[str, float], began: float) -> dict[str, float]:
    """Measure the run and its children; the embedded parts of this benchmark are none of them."""
    children = process.children(recursive=True)
    sizes, threads, descriptors = [], process.num_threads(), process.num_fds()
    for child in children:
        with suppress(psutil.Error):
            sizes.append(child.memory_info().rss)
            threads += child.num_threads()
            descriptors += child.num_fds()
    return {
        "minute": (time.time() - began) / 60,
        "rss_mb": process.memory_info().rss / 1e6,
        "children_mb": sum(sizes) / 1e6,
        "descriptors": descriptors,
        "threads": threads,
        "processes": 1 + len(children),
        "lag_s": max([value for key, value in numbers.items() if key.startswith("streamfer_source_lag")], default=0.0),
        "spool_mb": numbers.get("streamfer_spool_bytes", 0.0) / 1e6,
        "failed_opens": total(numbers, "streamfer_reconnects_total", "no_picture"),
        "reconnects": total(numbers, "streamfer_reconnects_total")
        - total(numbers, "streamfer_reconnects_total", "no_picture"),
        "clips": total(numbers, "streamfer_clip_latency_seconds_count"),
        "published": numbers.get("streamfer_published_total", 0.0),
        "redis_errors": numbers.get("streamfer_redis_errors_total", 0.0),
        "load": os.getloadavg()[0],
    }


class Faults:
    """What goes wrong, by turns, and how often it did."""

    def __init__(self, server: Redis, camera: RtspServer, operator: Operator) -> None:
        self.counts: Counter[str] = Counter()
        self._server, self._camera, self._operator = server, camera, operator
        self._names = itertools.count()
        turns: tuple[Callable[[], None], ...] = (
            self.redis_stops, self.camera_dies, self.source_comes_and_goes, self.redis_dies, self.camera_freezes,
            self.source_pauses, self.redis_stops, self.source_changes, self.redis_freezes,
        )  # fmt: skip
        self._turns = itertools.cycle(turns)

    def next(self) -> None:
        turn = next(self._turns)
        self.counts[turn.__name__] += 1
        turn()

    def redis_stops(self) -> None:
        self._server.restart(signal.SIGTERM, 0.5)

    def redis_dies(self) -> None:
        self._server.restart(signal.SIGKILL, 1.0)

    def redis_freezes(self) -> None:
        self._server.freeze(3.0)

    def camera_dies(self) -> None:
        self._camera.kill()
        time.sleep(1.0)
        self._camera.start()

    def camera_freezes(self) -> None:
        self._camera.freeze()
        time.sleep(6.0)
        self._camera.thaw()

    def source_comes_and_goes(self) -> None:
        name = f"guest-{next(self._names)}"
        self._operator.ask("POST", url=self._camera.url(), id=name)
        time.sleep(4.0)
        self._operator.ask("DELETE", f"/{name}")

    def source_pauses(self) -> None:
        self._operator.ask("PATCH", "/stays", paused=True)
        time.sleep(1.0)
        self._operator.ask("PATCH", "/stays", paused=False)

    def source_changes(self) -> None:
        self._operator.ask("PUT", "/dark", url=f"rtsp://127.0.0.1:9/{next(self._names)}")


def main() -> None:
    """Soak, and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=Path("soak"))
    parser.add_argument("--pause", type=float, default=8.0, help="seconds between two faults")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    path = wanted.out / "film.mp4"
    pictures = [cv2.resize(frame, (480, 270)) for frame in itertools.islice(film(), 0, 100, 2)]
    write_video(path, [*pictures, *pictures[::-1]] * 15, 12.5, codec="libx264")
    stays, ends, broken = RtspServer("--file", str(path)), RtspServer("--frames", "60"), RtspServer("--file", str(path))
    server, port = Redis(wanted.out / f"redis-{os.getpid()}"), free_port()
    config = {
        "sources": [
            {"url": stays.url(), "id": "stays"},
            {"url": ends.url(), "id": "ends"},
            {"url": broken.url(), "id": "broken"},
            {"url": "rtsp://127.0.0.1:9/x", "id": "dark"},
        ],
        "sampling": {"fps": 4},
        "captions": {"when": "changes"},
        "live": {"stall_timeout": 3, "backoff_first": 0.1, "backoff_cap": 1.0},
        "publish": {"redis": f"redis://127.0.0.1:{server.port}", "maxlen": 100_000_000},
        "health": {"address": port, "token": TOKEN},
    }
    file = wanted.out / "run.yaml"
    file.write_text(json.dumps(config))
    words = [sys.executable, "-m", "streamfer", "run", "-q", "-c", str(file)]
    with (wanted.out / "run.log").open("w") as log:
        run = subprocess.Popen(words, stdout=log, stderr=log)
    operator = Operator(port)
    faults = Faults(server, broken, operator)
    try:
        while not operator.ready():
            if run.poll() is not None:
                raise SystemExit(f"the run ended: see {log.name}")
            time.sleep(1)
        rows = soak(wanted, psutil.Process(run.pid), operator, faults)
        run.send_signal(signal.SIGTERM)
        code = run.wait(60)
        report(wanted.out, rows, faults.counts, code, subscriber(server.port))
    finally:
        run.kill()
        for one in (stays, ends, broken):
            one.kill()
        server.close()


def soak(wanted: Any, process: psutil.Process, operator: Operator, faults: Faults) -> list[dict[str, float]]:
    """Let faults happen and take samples until the time is over."""
    began, rows, due = time.time(), list[dict[str, float]](), 0.0
    next_fault = began + wanted.pause
    with (wanted.out / "samples.csv").open("w") as file:
        writer: csv.DictWriter[str] | None = None
        while time.time() < began + 60 * wanted.minutes:
            if time.time() >= due:
                due = time.time() + SAMPLE_SECONDS
                rows.append(sample(process, operator.metrics(), began))
                if writer is None:
                    writer = csv.DictWriter(file, rows[0].keys())
                    writer.writeheader()
                writer.writerow({name: round(value, 3) for name, value in rows[-1].items()})
                file.flush()
                if stuck := operator.alive():
                    print(f"minute {rows[-1]['minute']:.1f}: not alive: {stuck}", flush=True)
            if time.time() >= next_fault:
                faults.next()
                next_fault = time.time() + wanted.pause * random.uniform(0.7, 1.3)
            time.sleep(0.2)
    return rows


def subscriber(port: int) -> tuple[int, int, int]:
    """Return how many records there are, how many came twice, and how many are missing, by their numbers."""
    client = redis.Redis(port=port)
    records = twice = missing = 0
    for key in client.scan_iter("streamfer:*", _type="stream"):
        numbers: dict[bytes, list[int]] = {}
        ids: Counter[bytes] = Counter()
        first: Any = "-"
        while page := client.xrange(key, min=first, count=5000):
            for _, fields in page:
                numbers.setdefault(fields[b"ce_subject"], []).append(int(fields[b"ce_sequence"]))
                ids[fields[b"ce_id"]] += 1
            first = b"(" + page[-1][0]
        records += ids.total()
        twice += ids.total() - len(ids)
        missing += sum(max(own) - min(own) + 1 - len(set(own)) for own in numbers.values())
    return records, twice, missing


def report(
    out: Path, rows: list[dict[str, float]], counts: Counter[str], code: int, seen: tuple[int, int, int]
) -> None:
    """Print what grew, and draw."""
    settled = rows[int(len(rows) * WARM_UP) :]
    third = max(1, len(settled) // 3)
    last = rows[-1]
    print(f"{last['minute']:.0f} minutes, load {median(row['load'] for row in rows):.1f}, exit code {code}")
    print(f"faults: {', '.join(f'{name} {number}' for name, number in sorted(counts.items()))}")
    print(
        ", ".join(
            f"{name} {last[name]:.0f}" for name in ("failed_opens", "reconnects", "clips", "published", "redis_errors")
        )
    )
    print("a subscriber: {} records, {} twice, {} missing".format(*seen))
    print("| what | first third | last third | ratio | |\n|---|---|---|---|---|")
    for name in SERIES:
        before, after = (median(row[name] for row in part) for part in (settled[:third], settled[-third:]))
        ratio = after / before if before else float(after > 0) + 1
        verdict = "" if name not in LIMITS else "flat" if ratio <= LIMITS[name] else "GREW"
        print(f"| {name} | {before:.1f} | {after:.1f} | {ratio:.3f} | {verdict} |")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(SERIES), 1, sharex=True, figsize=(8, 11), layout="constrained")
    for name, axis in zip(SERIES, axes, strict=True):
        axis.plot([row["minute"] for row in rows], [row[name] for row in rows], linewidth=0.8)
        axis.set(ylabel=name, ylim=(0, None))
    axes[-1].set(xlabel="minutes")
    figure.savefig(out / "soak.png", dpi=110)


if __name__ == "__main__":
    main()
