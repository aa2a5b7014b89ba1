"""How fast records get to a local Redis, and how an hour without Redis ends.

    python benchmarks/publishing.py [--records 20000] [--hour 86400]

The server is the embedded one's: every write in its append-only file before the reply. *Records a second*: what the
delivery thread publishes, with its spool and its memory of what was acknowledged lately (``publish.resend_seconds``),
against redis-benchmark (redis-tools) appending entries of the same fields with as many in its pipeline, in turn, as a
ratio; the best of three. *An hour away*: as many records as 24 a second make in an hour, put while no server is there,
then drained when it is; all have to be there, once and in order.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from streamfer.config import PublishConfig
from streamfer.errors import PublishError
from streamfer.publish import Delivery, connect
from streamfer.publish.embedded import server_executable
from streamfer.publish.guard import server_command
from streamfer.records import (
    ClipLabelled,
    ClipSpan,
    FaceReading,
    Latency,
    ModelFacts,
    Producer,
    Record,
    VideoFacts,
)

CLIPS = "streamfer:{0}:clips"
PIPELINE = 256
LABELS = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
UNITS = ("AU01", "AU02", "AU04", "AU05", "AU06", "AU09", "AU12", "AU15", "AU17", "AU20", "AU25", "AU26")


def clips(count: int) -> list[Record]:
    """Records as a camera's run makes them."""
    model = ModelFacts(name="mini", digest="ab" * 32, head_version="1", precision="float32", detector="builtin")
    video = VideoFacts(width=1280, height=720, codec="h264", declared_fps=25.0, measured_fps=24.97)
    producer = Producer(version="0.1.0", host="camera-room", run_id="0123456789abcdef")
    latency = Latency(decode=4.123, queue=12.5, infer=31.75, total=201.25, lag=310.5)
    units = {name: round(0.05 * place, 6) for place, name in enumerate(UNITS)}
    face = FaceReading(
        track_id="k3f9-12",
        track=12,
        box=(0.25, 0.125, 0.2, 0.3),
        det_score=0.98,
        emotions={name: round(1 / 7, 6) for name in LABELS},
        top="happiness",
        quality=0.875,
        action_units=units,
        action_units_peak=units,
    )
    records = []
    for number in range(count):
        clip = ClipSpan(
            start_pts=number * 1000,
            end_pts=number * 1000 + 1875,
            time_base=(1, 1000),
            epoch=0,
            epoch_key="1772600765000",
            start_time=1772600765.0 + number,
            end_time=1772600766.875 + number,
            time_origin="wallclock",
            frames_sampled=16,
            frames_real=15,
            frames_decoded=48,
        )
        document = ClipLabelled(
            clip=clip, video=video, faces=(face,), model=model, producer=producer, latency_ms=latency
        )
        records.append(Record.of(document, source_id="hall"))
    return records


class Server:
    """A server with the embedded one's options, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = server_command(str(server_executable()), self.folder, self.socket)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while True:
            try:
                connect(self.url).close()
            except PublishError:
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def ours(server: Server, records: list[Record], spool: Path) -> float:
    """Records a second from the first ``put`` to the last acknowledgement."""
    with closing(connect(server.url)) as client:
        client.flushall()
    with Delivery.open(PublishConfig(redis=server.url, spool=spool)) as delivery:
        began = time.perf_counter()
        for record in records:
            delivery.put(record)
        while delivery.waiting:
            time.sleep(0.002)
        took = time.perf_counter() - began
    return len(records) / took


def theirs(server: Server, record: Record, count: int) -> float:
    """Entries a second of redis-benchmark: one client, the same fields, as many in its pipeline."""
    with closing(connect(server.url)) as client:
        client.flushall()
    fields = [word for pair in record.numbered(1).to_fields().items() for word in pair]
    command = ["redis-benchmark", "-s", str(server.socket), "-n", str(count), "-c", "1", "-P", str(PIPELINE), "--csv"]
    done = subprocess.run(
        [*command, "XADD", CLIPS, "MAXLEN", "~", "100000", "*", *fields], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1].rsplit('","', 7)[1])


def an_hour_away(server: Server, records: list[Record], spool: Path) -> None:
    """Put all while there is no server, start it, and time the draining."""
    with Delivery.open(PublishConfig(redis=server.url, spool=spool)) as delivery:
        began = time.perf_counter()
        for record in records:
            delivery.put(record)
        took = time.perf_counter() - began
        time.sleep(1.5)
        held = delivery.spool_bytes
        server.start()
        began = time.perf_counter()
        while delivery.waiting:
            time.sleep(0.01)
        drained = time.perf_counter() - began
    with closing(connect(server.url)) as client:
        found: Any = client.xrange(CLIPS)
    assert [fields[b"ce_id"].decode() for _, fields in found] == [record.id for record in records]
    print(
        f"an hour away: {len(records)} records put in {took:.1f} s, {held / 1e6:.0f} MB in the spool, "
        f"drained in {drained:.1f} s, all there, once and in order"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--hour", type=int, default=86_400, help="records of the hour; 0 leaves it out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamfer") as folder:
        server = Server(Path(folder))
        records = clips(max(arguments.records, arguments.hour))
        size = sum(len(name) + len(value) for name, value in records[0].numbered(1).to_fields().items())
        try:
            if arguments.records:
                server.start()
                mine, other = 0.0, 0.0
                for _ in range(3):
                    mine = max(mine, ours(server, records[: arguments.records], Path(folder, "spool")))
                    if shutil.which("redis-benchmark"):
                        other = max(other, theirs(server, records[0], arguments.records))
                ratio = f", {mine / other:.0%} of redis-benchmark's {other:,.0f}" if other else ""
                print(f"records of {size} bytes: {mine:,.0f} a second{ratio}")
                with closing(connect(server.url)) as client:
                    client.flushall()
                server.stop()
            if arguments.hour:
                an_hour_away(server, records[: arguments.hour], Path(folder, "spool"))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
