"""How soon a camera that comes back is labelled again.

    python benchmarks/recovery.py [--times 10]

A real RTSP server (gst-rtsp-server: tests/rtsp_server.py says what it needs) plays the demo's film; it is killed while
it is watched and started again two seconds later. Seconds are printed from the moment when it listens again: until the
first picture is decoded (the film begins with a key picture), and until the first label is handed out.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from streamfer import Session
from streamfer.records import ClipLabelled, SourceStateChanged
from streamfer.video import write_video
from streamfer.video.demo_film import FPS, film

#: Seconds for which it is watched before it is killed: what goes sooner is tried again at growing intervals.
WATCHED = 12.0
SERVER = Path(__file__).resolve().parent.parent / "tests" / "rtsp_server.py"


def server(path: Path, port: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server of a film, and return it and its port once it listens."""
    process = subprocess.Popen(
        ["/usr/bin/python3", str(SERVER), "--port", port, "--file", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    word, _, port = process.stdout.readline().strip().partition(" ")
    if word != "ready":
        sys.exit(f"no RTSP server: {word} {port}")
    return process, port


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_video(path, (frame[::2, ::2].copy() for frame in [*film()] * 4), FPS, codec="libx264")
        process, port = server(path, "0")
        pictures, labels = [], list[float]()
        listening = 0.0
        labelled = threading.Event()

        def restart() -> None:
            nonlocal process, listening
            time.sleep(WATCHED)
            process.kill()
            process.communicate()
            time.sleep(2)
            process, _ = server(path, port)
            listening = time.time()

        restarts: threading.Thread | None = None
        with Session(detector="builtin") as session:
            for record in session.stream([f"rtsp://127.0.0.1:{port}/live"]):
                if isinstance(record.data, SourceStateChanged) and record.data.state == "online" and restarts:
                    restarts.join()
                    pictures.append(time.time() - listening)
                    labelled.clear()
                elif isinstance(record.data, ClipLabelled) and not labelled.is_set():
                    labelled.set()
                    if restarts:
                        labels.append(time.time() - listening)
                        print(f"picture {pictures[-1]:.2f} s, label {labels[-1]:.2f} s", flush=True)
                    if len(labels) == wanted.times:
                        break
                    restarts = threading.Thread(target=restart)
                    restarts.start()
        process.kill()
        process.communicate()
    after = [label - picture for picture, label in zip(pictures, labels, strict=True)]
    for name, values in (("first picture", pictures), ("first label", labels), ("label after picture", after)):
        print(f"{name}: median {statistics.median(values):.2f} s, worst {max(values):.2f} s")


if __name__ == "__main__":
    main()
