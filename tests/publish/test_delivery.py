"""Delivery to a real server: no trouble of it loses, doubles or disorders a record, and nobody waits for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import wait_for
from published import ids, stored
from published import unnumbered as clips

from streamfer.config import PublishConfig
from streamfer.errors import OutputError, PublishError
from streamfer.publish import Delivery, Publisher, connect
from streamfer.publish.embedded import server_executable
from streamfer.publish.spool import Spool
from streamfer.records import Gap, Record

CLIPS = "streamfer:{0}:clips"


class Server:
    """A Redis server that writes nothing to disk unless told, and keeps its socket over kills."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        """Start it (again), empty."""
        command = [str(server_executable()), "--port", "0", "--unixsocket", str(self.socket), "--save", "", *words]
        self.process = subprocess.Popen(command, cwd=self.socket.parent, stdout=subprocess.DEVNULL)
        wait_for(self.answers, "the server answers")

    def answers(self) -> bool:
        try:
            connect(self.url).close()
        except PublishError as error:
            return "denies" in str(error)
        return True

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def config(server: Server, tmp_path: Path, **settings: Any) -> PublishConfig:
    return PublishConfig(redis=server.url, spool=tmp_path / "spool", **settings)


def test_a_server_that_comes_later_gets_everything_in_order(server: Server, tmp_path: Path) -> None:
    records = clips(0, 300)
    with Delivery.open(config(server, tmp_path)) as delivery:
        # Nobody waits for Redis, which is started when they are taken.
        for record in records[:200]:
            delivery.put(record)
        wait_for(lambda: bool(delivery.trouble) and delivery.spool_bytes > 0, "trouble is known, records on disk")
        server.start()
        for record in records[200:]:
            delivery.put(record)
        wait_for(lambda: not delivery.waiting, "all published")
        assert (delivery.trouble, delivery.spool_bytes) == ("", 0)
        assert ids(stored(server.url)) == ids(records)
        numbers = [record.sequence for record in stored(server.url)]
        assert numbers == list(range(numbers[0] or 0, (numbers[0] or 0) + 300)), "without a hole"


def test_what_a_killed_process_left_is_published_by_the_next(server: Server, tmp_path: Path) -> None:
    """The whole story: Redis away, the process killed, a second process that holds the folder, then a third."""
    code = (
        "import os, sys, time; sys.path[:0] = ['tests', 'tests/publish']\n"
        "from pathlib import Path; from test_delivery import *\n"
        "server = Server(Path(sys.argv[1])); server.process = None\n"
        "delivery = Delivery.open(config(server, Path(sys.argv[1])))\n"
        "[delivery.put(record) for record in clips(int(sys.argv[2]), int(sys.argv[3]))]\n"
        "while delivery._spool._memory: time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).resolve().parents[2]
    for first, last in (("0", "50"), ("50", "80")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), first, last], cwd=root, check=False, timeout=90
        )
        assert done.returncode == -signal.SIGKILL
    server.start()
    with Delivery.open(config(server, tmp_path)) as delivery:
        delivery.put(clips(80, 81)[0])
        wait_for(lambda: not delivery.waiting, "all published")
    assert ids(stored(server.url)) == ids(clips(0, 81))


def test_two_processes_share_a_folder(server: Server, tmp_path: Path) -> None:
    one, two = (Spool(tmp_path / "spool", "x", 1 << 20) for _ in range(2))
    for number, record in enumerate(clips(0, 6)):
        (one, two)[number % 2].put(record.to_fields())
    assert (one.close(), two.close()) == (3, 3)
    again = Spool(tmp_path / "spool", "x", 1 << 20)
    assert {record["ce_id"] for _, record in again.next(99, 0)} == set(ids(clips(0, 6)))
    assert Spool(tmp_path / "spool", "y", 1 << 20).waiting == 0, "meant for another server"


TROUBLES = {
    "full memory": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "is full"),
    "read only": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "READONLY"),
    "too few replicas": ("CONFIG SET min-replicas-to-write 3", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS"),
    "no right to append": ("ACL SETUSER default -xadd", "ACL SETUSER default +xadd", "user"),
    "no right to mark": ("ACL SETUSER default -set", "ACL SETUSER default +set", "denies a command"),
    "another password": ("CONFIG SET requirepass other", None, "denies access"),
    "a key of another type": ("SET streamfer:{0}:clips x", "DEL streamfer:{0}:clips", "WRONGTYPE"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_refusal_ends_it(server: Server, tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each is told once, lasts a while, and costs nothing."""
    server.start()
    begin, end, words = TROUBLES[trouble]
    records = clips(0, 20)
    with closing(connect(server.url)) as admin, Delivery.open(config(server, tmp_path)) as delivery:
        if not begin.startswith("SET"):
            for record in records[:10]:
                delivery.put(record)
            wait_for(lambda: not delivery.waiting, "the first are published")
        admin.execute_command(*begin.split())  # type: ignore[no-untyped-call]
        if trouble == "another password":
            for client in admin.client_list():
                if client["name"] == "streamfer" and client["id"] != str(admin.client_id()):
                    admin.client_kill_filter(_id=client["id"])
        for record in records[10:] if not begin.startswith("SET") else records:
            delivery.put(record)
        wait_for(lambda: words in delivery.trouble and delivery.errors > 2, f"{words} as trouble")
        assert delivery.waiting
        undo = end.split() if end else ["CONFIG", "SET", "requirepass", ""]
        admin.execute_command(*undo)  # type: ignore[no-untyped-call]
        wait_for(lambda: not delivery.waiting, "all published")
    assert ids(stored(server.url)) == ids(records)
    assert [entry.getMessage() for entry in caplog.records].count("publish.waits") == 1


def test_what_a_server_forgot_is_sent_again(server: Server, tmp_path: Path) -> None:
    """The new run of the server knows nothing of what the old one acknowledged: as after a failover."""
    server.start()
    records = clips(0, 30)
    with Delivery.open(config(server, tmp_path)) as delivery:
        for record in records[:20]:
            delivery.put(record)
        wait_for(lambda: not delivery.waiting, "acknowledged")
        server.kill()
        server.start()
        for record in records[20:]:
            delivery.put(record)
        wait_for(lambda: not delivery.waiting and delivery.sent_again >= 20, "sent again")
    assert ids(stored(server.url)) == ids(records), "those of the old server first"


def test_a_quiet_publisher_notices_too(server: Server, tmp_path: Path) -> None:
    """As long as it is to remember: another one forgets at once."""
    server.start()
    first, second, third = clips(0, 3)
    with (
        Delivery.open(config(server, tmp_path, resend_seconds=60)) as delivery,
        Delivery.open(config(server, tmp_path, resend_seconds=0)) as forgetful,
    ):
        delivery.put(first)
        forgetful.put(second)
        with closing(connect(server.url)) as admin:
            calls = partial(admin.info, "commandstats")
            wait_for(lambda: calls().get("cmdstat_eval", {}).get("calls", 0) >= 6, "both have looked again")
        for _ in range(2):
            server.kill()
            server.start()
            wait_for(lambda: ids(stored(server.url)) == ids([first]), "sent again without a new record, each time")
        forgetful.put(third)
        wait_for(lambda: len(stored(server.url)) > 1, "published")
        assert ids(stored(server.url)) == ids([first, third])


def test_the_end_waits_for_a_frozen_server_as_long_as_it_may(server: Server, tmp_path: Path) -> None:
    server.start()
    delivery = Delivery.open(config(server, tmp_path))
    delivery.publisher.url = "redis://me:hunter2@redis.example/0"
    server.signal(signal.SIGSTOP)
    for record in clips(0, 5):
        delivery.put(record)
    began = time.monotonic()
    delivery.close(1.0)
    assert time.monotonic() - began < 30, "a frozen server answers nobody, ever"
    assert "Redis at redis://***@redis.example/0 " in delivery.left
    assert "5 records wait in " in delivery.left
    server.signal(signal.SIGCONT)
    with Delivery.open(config(server, tmp_path)) as delivery:
        wait_for(lambda: not delivery.waiting, "published by the next run")
    assert ids(stored(server.url)) == ids(clips(0, 5)), "once each, though the frozen server took them too"
    server.kill()
    for seconds, records in ((60.0, clips(0, 1000)), (0.0, clips(1000, 4000))):
        delivery = Delivery.open(config(server, tmp_path))
        for record in records:
            delivery.put(record)
        comes = threading.Timer(0.3, server.start)
        comes.start()
        delivery.close(seconds)
        comes.join()
        assert bool(delivery.left) == (seconds == 0), "what it may take is taken"
        if not seconds:
            with Delivery.open(config(server, tmp_path)) as delivery:
                wait_for(lambda: not delivery.waiting, "published by the next run")  # noqa: B023
        assert ids(stored(server.url)) == ids(records)
        server.kill()


def test_too_much_makes_room_and_says_so(server: Server, tmp_path: Path) -> None:
    records = clips(0, 3000)
    with Delivery.open(config(server, tmp_path, spool_mb=1)) as delivery:
        for record in records[:500]:
            delivery.put(record)
        wait_for(lambda: delivery._spool._in_flight >= 256, "a whole batch is under way")
        for start in range(500, len(records), 500):
            for record in records[start : start + 500]:
                delivery.put(record)
            delivery._spool.settle()
        wait_for(lambda: 400_000 < delivery.spool_bytes <= 1 << 20, "on disk, and within bounds")
        server.start()
        wait_for(lambda: not delivery.waiting, "all published")
    assert_gap_stands_for_the_missing(stored(server.url), records)


def assert_gap_stands_for_the_missing(found: list[Record], records: list[Record]) -> None:
    """What was under way when room had to be made stays; one gap follows it, and then the rest."""
    ((place, gap),) = [(place, record.data) for place, record in enumerate(found) if isinstance(record.data, Gap)]
    assert (gap.cause, gap.unit) == ("spool_full", "records")
    assert gap.count + len(found) - 1 == len(records)
    assert ids(found[:place]) == ids(records[:place])
    assert ids(found[place + 1 :]) == ids(records[place + gap.count :])
    before, at, after = (found[place + step].sequence or 0 for step in (-1, 0, 1))
    assert (at - before, after - at) == (gap.count, 1)


def test_a_disk_that_takes_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamfer.publish.spool._MOST_WITHOUT_DISK", 600)
    monkeypatch.setattr("streamfer.publish.spool._MEMORY_SECONDS", 0.0)
    with Delivery.open(config(server, tmp_path)) as delivery:
        delivery._spool._database.execute("PRAGMA query_only=ON")
        records = clips(0, 900)
        for record in records[:300]:
            delivery.put(record)
        wait_for(lambda: delivery._spool._in_flight >= 256, "a whole batch is under way")
        for record in records[300:]:
            delivery.put(record)
        server.start()
        wait_for(lambda: not delivery.waiting, "all published")
    assert_gap_stands_for_the_missing(stored(server.url), records)
    assert delivery.left == ""
    delivery = Delivery.open(config(server, tmp_path / "other").model_copy(update={"redis": "redis://127.0.0.1:1"}))
    delivery.put(records[0])
    delivery._spool.settle()
    delivery._spool._database.execute("PRAGMA query_only=ON")
    for record in records[1:4]:
        delivery.put(record)
    delivery.close(0.0)
    assert re.search(r"; 1 records wait in .*; 3 records are lost, for .*spool takes no more$", delivery.left)
    failed = [line for line in caplog.records if line.message == "publish.spool_failed"]
    assert {vars(line)["folder"] for line in failed} == {str(tmp_path / "spool"), str(tmp_path / "other" / "spool")}


def test_a_spool_that_cannot_be_written_is_said_at_once(server: Server, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(OutputError, match=r"publish.spool: .* cannot be written .*; name a folder"):
        Delivery.open(config(server, tmp_path))


def test_a_damaged_spool_is_put_aside(server: Server, tmp_path: Path) -> None:
    with Delivery.open(config(server, tmp_path)) as delivery:
        delivery.put(clips(0, 1)[0])
        delivery._end = 0.0
    (path,) = (tmp_path / "spool").glob("*.sqlite")
    path.write_bytes(b"no database at all" * 100)
    with Delivery.open(config(server, tmp_path)) as delivery:
        assert delivery.waiting == 0
        delivery._end = 0.0
    assert list((tmp_path / "spool").glob("*.damaged"))


@pytest.mark.parametrize("when", ["between runs", "meanwhile"])
def test_what_can_be_read_of_a_damaged_spool_is_published(server: Server, tmp_path: Path, when: str) -> None:
    """A page of noise, or flipped bits of one record, cost what they hit; what waits behind them is published."""
    records = clips(0, 300)
    spool = Spool(tmp_path / "spool", "x", 1 << 24)
    for record in records:
        spool.put(record.to_fields())
    spool.settle()
    path = spool._path
    if when == "between runs":
        assert spool.close() == 300
    else:
        spool._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    flipped = content.index(records[20].id.encode())
    content[flipped] ^= 0x40
    content[flipped + 9] ^= 0xA5
    middle = len(content) // 8192 * 4096
    content[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(bytes(content))
    if when == "between runs":
        spool = Spool(tmp_path / "spool", "x", 1 << 24)
    else:
        spool._database.execute("PRAGMA shrink_memory")
    server.start()
    with Delivery(Publisher.open(config(server, tmp_path)), spool) as delivery:
        delivery.put(clips(300, 301)[0])
        wait_for(lambda: not delivery.waiting, "all published")
    found = ids(stored(server.url))
    assert found == [known for known in ids(clips(0, 301)) if known in found]
    assert 280 < len(found) < 301
    assert records[20].id not in found
    assert list((tmp_path / "spool").glob("*.damaged"))


def test_a_disk_that_is_full_when_redis_comes_back_holds_nothing_up(server: Server, tmp_path: Path) -> None:
    records = clips(0, 700)
    spool = Spool(tmp_path / "spool", "x", 1 << 24)
    for record in records[:600]:
        spool.put(record.to_fields())
    spool.settle()
    database = spool._database
    # What a full disk says to a deletion, which needs room for its log.
    database.execute("CREATE TRIGGER full BEFORE DELETE ON waiting BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    server.start()
    with Delivery(Publisher.open(config(server, tmp_path)), spool) as delivery:
        for record in records[600:]:
            delivery.put(record)
        wait_for(lambda: not delivery.waiting, "all published")
        assert delivery.spool_bytes == 0
    assert ids(stored(server.url)) == ids(records)


@pytest.mark.parametrize(
    ("url", "words"),
    [("redis://h:port", "cannot be read"), ("http://h", "scheme 'http'"), ("localhost", "no scheme")],
)
def test_a_wrong_url_is_said_at_once(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=words):
        Delivery.open(PublishConfig(redis=url, spool=tmp_path / "spool"))


def test_wrong_credentials_are_said_at_once(server: Server, tmp_path: Path) -> None:
    server.start("--requirepass", "other")
    with pytest.raises(PublishError, match="denies access"):
        Delivery.open(config(server, tmp_path))
