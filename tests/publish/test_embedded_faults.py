"""The embedded server in trouble: killed, slow, or with its files gone; what was published is there once, in order."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import discover, wait_for
from published import ids, stored
from published import unnumbered as clips

from streamfer.config import PublishConfig
from streamfer.publish import Delivery, EmbeddedRedis, subscribe


class TestEmbedded:
    @pytest.fixture(autouse=True)
    def _own_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STREAMFER_REDIS_FOLDER", str(tmp_path / "redis"))

    @pytest.mark.parametrize(
        "victims",
        [("guard",), ("guard", "server"), ("server",) * 7, ("folder", "folder"), ("socket",)],
        ids=["guard", "both", "7", "folder", "socket"],
    )
    def test_it_is_watched(self, tmp_path: Path, victims: tuple[str, ...]) -> None:
        """Whatever is killed or deleted, nothing is lost: with its folder goes what was on disk alone."""
        folder = tmp_path / "redis"
        records = clips(0, 10 * (len(victims) + 1))
        with Delivery.open(PublishConfig(spool=tmp_path / "spool")) as delivery:
            for number, victim in enumerate(victims):
                for record in records[10 * number : 10 * number + 10]:
                    delivery.put(record)
                wait_for(lambda: not delivery.waiting, "published")
                facts = discover(folder)
                if victim == "folder":
                    shutil.rmtree(folder)
                elif victim == "socket":
                    (folder / "redis.sock").unlink()
                    delivery.publisher.disconnect()
                elif facts is not None:
                    os.kill(int(facts[victim]), signal.SIGKILL)
                time.sleep(0.3)
            for record in records[-10:]:
                delivery.put(record)
            wait_for(lambda: not delivery.waiting, "published")
            with EmbeddedRedis.start(folder) as server:
                assert ids(stored(server.url)) == ids(records)

    def test_a_reader_alone_brings_it_back(self, tmp_path: Path) -> None:
        folder = tmp_path / "redis"
        with subscribe(idle_s=0.3) as reader:
            facts = discover(folder)
            assert facts is not None
            for victim in ("guard", "server"):
                with contextlib.suppress(ProcessLookupError):  # a server ends when its guard does
                    os.kill(int(facts[victim]), signal.SIGKILL)
            wait_for(lambda: not list(reader) and discover(folder), "it runs again")


SHIM = """
#include <unistd.h>
#include <sys/syscall.h>
int fdatasync(int descriptor) { usleep(300000); return syscall(SYS_fdatasync, descriptor); }
int fsync(int descriptor) { usleep(300000); return syscall(SYS_fsync, descriptor); }
"""


def killed(folder: Path) -> bool:
    """Kill the server of a folder; whether there was one, which after the last time takes a while."""
    facts = discover(folder)
    if facts is None:
        return False
    try:
        os.kill(int(facts["server"]), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("_time", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_server_loses_nothing_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _time: int
) -> None:
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(shim), str(tmp_path / "shim.c")], check=True)
    folder = tmp_path / "redis"
    monkeypatch.setenv("STREAMFER_REDIS_FOLDER", str(folder))
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    records = clips(0, 600)
    with Delivery.open(PublishConfig(spool=tmp_path / "spool")) as delivery:
        for number, record in enumerate(records):
            delivery.put(record)
            time.sleep(0.005)
            if number in (150, 300, 450):
                wait_for(lambda: killed(folder), "a server, again")
        wait_for(lambda: not delivery.waiting, "published")
        with EmbeddedRedis.start(folder) as server:
            assert ids(stored(server.url)) == ids(records)
