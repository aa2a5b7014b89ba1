"""Calling the command line: inside this process where that is enough, as a program where the process matters."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from streamfer.publish.embedded import guarded
from streamfer.publish.guard import DISCOVERY

PATIENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The error lines, without the program's name."""
        return [line.removeprefix("streamfer: ") for line in self.err.splitlines() if line.startswith("streamfer: ")]


def streamfer(*words: str | Path, err: io.StringIO | None = None) -> Finished:
    """Run ``streamfer WORDS`` in this process; signals and logging are afterwards as before.

    What it says on standard error can be read from ``err`` meanwhile.
    """
    from streamfer import cli

    out, err = io.StringIO(), err or io.StringIO()
    code = 0
    argv = mock.patch.object(sys, "argv", ["streamfer", *map(str, words)])
    with _nothing_kept(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), argv:
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finished = Finished(code, out.getvalue(), err.getvalue())
    assert "Traceback" not in finished.err + finished.out, finished.err
    return finished


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    loggers = list(logging.root.handlers)
    levels = {name: logging.getLogger(name).level for name in ("", "streamfer", "streamfer_kernels", "streamfer_train")}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for added in [handler for handler in logging.root.handlers if handler not in loggers]:
            logging.root.removeHandler(added)
        for kept in [handler for handler in loggers if handler not in logging.root.handlers]:
            logging.root.addHandler(kept)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def streamfer_while(
    steps: Callable[[], object], *words: str | Path, err: io.StringIO | None = None, number: int = signal.SIGTERM
) -> Finished:
    """Run ``streamfer WORDS`` in this process, in its main thread, until ``steps`` beside it end and a signal is sent.

    What the steps raise is raised when the command has ended.
    """
    failures: list[BaseException] = []

    def take() -> None:
        try:
            steps()
        except BaseException as error:
            failures.append(error)
        finally:
            os.kill(os.getpid(), number)

    # Steps may fail before the command knows the signal, and end after it.
    before = signal.signal(number, signal.SIG_IGN)
    thread = threading.Thread(target=take, name="steps of a test")
    try:
        thread.start()
        finished = streamfer(*words, err=err)
        thread.join()
    finally:
        signal.signal(number, before)
    if failures:
        raise failures[0]
    return finished


class Program:
    """``streamfer WORDS`` as a process of its own; ends with the ``with`` block at the latest."""

    def __init__(self, *words: str | Path, **environment: str) -> None:
        command = [sys.executable, "-c", "from streamfer.cli import main; main()", *map(str, words)]
        self._complaints = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - as long as the program
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=self._complaints, text=True
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._complaints.close()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def err(self) -> str:
        """What it has said on standard error so far."""
        size = os.fstat(self._complaints.fileno()).st_size
        return os.pread(self._complaints.fileno(), size, 0).decode()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> Finished:
        """Wait for its end."""
        out, _ = self._process.communicate(timeout=2 * PATIENCE_SECONDS)
        err = self.err
        assert "Traceback" not in err + out
        return Finished(self._process.returncode, out, err)


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until ``condition`` holds; what takes long is asked less often."""
    began = time.monotonic()
    while not condition():
        passed = time.monotonic() - began
        assert passed < seconds, f"never: {what}"
        time.sleep(min(max(0.02, passed / 20), 0.5))


@contextlib.contextmanager
def when(condition: Callable[[], bool], action: Callable[[], object]) -> Iterator[list[bool]]:
    """Do something once ``condition`` holds, beside the block; the yielded list says whether it was done."""
    over = threading.Event()
    done: list[bool] = []

    def watch() -> None:
        while not over.wait(0.02):
            if condition():
                action()
                done.append(True)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def discover(folder: Path) -> dict[str, Any] | None:
    """Process ids and socket of the embedded server that runs in ``folder``; None where none does."""
    if not folder.is_dir() or not guarded(folder):
        return None
    try:
        found: dict[str, Any] = json.loads((folder / DISCOVERY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
