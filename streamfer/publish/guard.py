"""The process that owns the embedded Redis server: it runs the server while anybody uses it.

Run as a script, by path, with the standard library alone, so that it stays small (it lives as long as the
server does). It belongs to no terminal: Ctrl-C reaches the programs that publish, not the server they still
publish to. Three files in the server's folder carry the agreement between processes, all by ``flock``, which
the kernel releases however a process ends:

``users.lock``  shared: held by every process that uses the server. The guard waits to hold it alone.
``guard.lock``  exclusive: held by the guard while it and its server live.
``start.lock``  exclusive: held by a process while it looks for a guard or starts one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

USERS_LOCK = "users.lock"
GUARD_LOCK = "guard.lock"
START_LOCK = "start.lock"
DISCOVERY = "server.json"
LOG = "redis.log"

_POLL_SECONDS = 0.1
_LISTENS_SECONDS = 5.0
_FORCE_SECONDS = 1.0
_STOP_SECONDS = 10.0
_LOCK_SECONDS = 1.0
# A server that cannot live (damaged file, full disk) must not be started for ever.
_MOST_RESTARTS = 5
_CALM_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


def lock_file(path: Path) -> int:
    """Open ``path`` for locking and return the descriptor; children do not inherit it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def lock(descriptor: int, *, shared: bool = False) -> None:
    """Lock, and wait for it as long as another process is in the way."""
    import fcntl  # absent on Windows, where this module must still be importable

    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock without waiting; False if another process is in the way."""
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still stands at ``path``: its folder may have been deleted, and made again."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _die_with_parent() -> None:
    # Linux only; elsewhere the next start ends a server that its guard left behind.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def server_command(executable: str, folder: Path, socket: Path) -> list[str]:
    """Command line of the server: private socket, no port, every write in the append-only file."""
    options = {
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "port": "0",
        "dir": str(folder),
        "appendonly": "yes",
        # Written before each reply, so what was acknowledged outlives a killed server. With "everysec" it might
        # not: the server answers before it writes while the last second is being forced to the disk. The guard
        # does the forcing instead.
        "appendfsync": "no",
        "save": "",
        "logfile": str(folder / LOG),
        "daemonize": "no",
    }
    return [executable, *(word for name, value in options.items() for word in (f"--{name}", value))]


class Guard:
    """Starts the server, restarts it after a crash, and stops it when its last user has gone."""

    def __init__(self, executable: str, folder: Path, socket: Path) -> None:
        self._command = server_command(executable, folder, socket)
        self._folder, self._socket = folder, socket
        self._stopping = False
        self._lock = -1

    def run(self) -> int:
        """Guard until nobody uses the server or a signal asks to stop; returns the exit status."""
        self._lock = lock_file(self._folder / GUARD_LOCK)
        deadline = time.monotonic() + _LOCK_SECONDS
        while not try_lock(self._lock):  # another guard's, or for a moment that of who asks whether there is one
            if time.monotonic() > deadline:
                return 0
            time.sleep(0.01)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        users = lock_file(self._folder / USERS_LOCK)
        server, since, restarts = self._start(), time.monotonic(), 0
        forced = since
        try:
            while not self._stopping and self._in_place() and not try_lock(users):
                time.sleep(_POLL_SECONDS)
                if not self._socket.exists() and time.monotonic() - since > _LISTENS_SECONDS:
                    # Who cleans temporary folders took it: nobody could connect any more.
                    server.terminate()
                    server.wait()
                if server.poll() is None:
                    if time.monotonic() - forced >= _FORCE_SECONDS:
                        self._force_to_disk()
                        forced = time.monotonic()
                    continue
                restarts = restarts + 1 if time.monotonic() - since < _CALM_SECONDS else 1
                if restarts > _MOST_RESTARTS:
                    return 1
                time.sleep(_POLL_SECONDS * restarts)
                server, since = self._start(), time.monotonic()
        finally:
            self._end(server)
        return 0

    def _in_place(self) -> bool:
        """Whether the folder is still there: what a server writes elsewhere nobody would find."""
        return is_at(self._lock, self._folder / GUARD_LOCK)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _start(self) -> subprocess.Popen[bytes]:
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        server = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has a single thread
        )
        facts = {"socket": str(self._socket), "server": server.pid, "guard": os.getpid()}
        draft = self._folder / f"{DISCOVERY}.new"
        draft.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        draft.replace(self._folder / DISCOVERY)
        return server

    def _force_to_disk(self) -> None:
        # Redis 7 keeps several files, in a folder of their own; those that hold nothing new cost nothing.
        for path in self._folder.rglob("*.aof"):
            # A rewrite replaces files; a disk that fails shows itself to the server, which then refuses to write.
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _end(self, server: subprocess.Popen[bytes]) -> None:
        if not self._in_place():
            # The socket in its place may be another server's, and one that is asked to end removes it.
            server.kill()
            server.wait()
            return
        if server.poll() is None:
            server.terminate()
            try:
                server.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        (self._folder / DISCOVERY).unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(Guard(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])).run())
