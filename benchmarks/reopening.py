"""What a thousand failed opens and a hundred reconnects of one live source leave behind: memory, threads, descriptors.

    python benchmarks/reopening.py [--opens 1000] [--reconnects 100]

The source alone, without models: an address at which nobody answers, and a real RTSP server that ends its stream after
eight pictures. Prints a Markdown table. Needs Debian's GStreamer bindings (see tests/rtsp_server.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from conftest import RtspServer

from streamfer.config import LiveConfig
from streamfer.video import find_sources
from streamfer.video.frames import StateChange
from streamfer.video.live import LiveSource


def reopen(url: str, times: int, what: str) -> None:
    """Let a source come back ``times`` times; print a row each tenth."""
    source = LiveSource(find_sources([url])[0], LiveConfig(backoff_first=0.01, backoff_cap=0.01))
    process, done = psutil.Process(), 0
    for item in source.stream(lambda _epoch, _seconds, index: index % 3 == 0):
        if isinstance(item, StateChange) and item.state == "backoff":
            done += 1
            if done % max(1, times // 10) == 0:
                size = process.memory_info().rss / 1e6
                print(f"| {what} | {done} | {size:.1f} | {process.num_threads()} | {process.num_fds()} |", flush=True)
            if done >= times:
                source.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opens", type=int, default=1000)
    parser.add_argument("--reconnects", type=int, default=100)
    wanted = parser.parse_args()
    print("| what | times | RSS, MB | threads | descriptors |\n|---|---|---|---|---|")
    reopen("rtsp://127.0.0.1:9/nobody", wanted.opens, "failed opens")
    server = RtspServer("--frames", "8", "--width", "480", "--height", "270")
    try:
        reopen(server.url(), wanted.reconnects, "reconnects")
    finally:
        server.kill()


if __name__ == "__main__":
    main()
