"""A captioner in a process of its own, so that writing never takes the interpreter away from the labels.

A thread would not do: a language model writes token by token, thousands of small steps that hold Python's global lock
(``benchmarks/caption_latency.py`` measures both). The process runs at a lower priority, with few threads, and can be
killed when it hangs. It is no process of multiprocessing, which would run the caller's own script again.

Parent and child talk over a socket pair with multiprocessing's connection: the parent sends how to load the captioner,
gets its identity, and then sends calls. A child whose parent has gone reads the end of the socket and ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from streamfer import errors
from streamfer.captions.protocol import CaptionerInfo, Keyframes, Message, Patience
from streamfer.errors import InternalError, StreamferError
from streamfer.threads import POOL_VARIABLES

LOADER = "streamfer.captions.loading:load_any"
#: Added to the process's niceness: where cores are short, labels come first.
NICENESS = 10
#: A model that takes longer than this to load is taken for one that hangs.
_LONGEST_LOADING = 900.0
_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


class ProcessCaptioner:
    """A :class:`~streamfer.captions.protocol.Captioner` or text model that lives in another process.

    What makes it there is the ``loader``, as ``module:function``, with ``options``. The process starts at once and
    loads in the background; :attr:`info` waits for it. One that hangs beyond our :attr:`patience` is killed; then, or
    when it died, the next call starts it again, and its time counts from when it has loaded.
    """

    def __init__(self, options: Mapping[str, Any], *, threads: int = 1, loader: str = LOADER) -> None:
        self._request, self._threads = (loader, dict(options)), threads
        self._lock = threading.Lock()
        self._info: CaptionerInfo | None = None
        self.patience: Patience | None = None
        self._begin()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # Its output is ours only where it complains: results go to our standard output.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "streamfer.captions.process", str(theirs.fileno())],
                env={**os.environ, **dict.fromkeys(POOL_VARIABLES, str(self._threads)), "TQDM_DISABLE": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._pipe: Connection = Connection(ours.detach())
        self._ready = False
        #: Ends the process and the connection; nobody may be waiting for an answer.
        self._end = weakref.finalize(self, _end, self._process, self._pipe)
        with contextlib.suppress(OSError):
            self._pipe.send(self._request)

    @property
    def info(self) -> CaptionerInfo:
        """Identity of the model; waits until it is loaded, or raises the StreamferError that came of it."""
        if self._info is None:
            with self._lock:
                self._load()
        return cast(CaptionerInfo, self._info)

    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
        return list(self._ask("caption", list(clips), questions))

    def complete(self, conversations: Sequence[list[Message]]) -> list[str]:
        return list(self._ask("complete", list(conversations)))

    def answer_yes_no(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> list[float]:
        return list(self._ask("answer_yes_no", list(clips), questions))

    def close(self) -> None:
        """Kill the process; the call in progress reads the end of the socket, the next one starts a new process."""
        self._process.kill()
        self._process.wait()

    def _load(self) -> None:
        """Wait until the model is loaded; the lock is held."""
        if not self._ready:
            if self.patience is not None:
                self.patience.begin(_LONGEST_LOADING)
            self._info = self._receive()
            self._ready = True

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Make one call; the captioner's own errors come back as they are."""
        with self._lock:
            if self._process.poll() is not None:
                log.warning("captions.restart", extra={"captioner": self._request[1].get("name_or_path")})
                self._end()
                self._begin()
            self._load()
            if self.patience is not None:
                self.patience.begin()
            try:
                self._pipe.send((method, arguments))
            except OSError as error:
                raise self._gone() from error
            return self._receive()

    def _receive(self) -> Any:
        try:
            while self.patience is not None and not self._pipe.poll(_POLL_SECONDS):
                if self.patience.over():
                    self.close()
                    raise self.patience.error()
            outcome, *rest = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if outcome == "error":
            kind, message = rest
            found = getattr(errors, kind, None)
            if isinstance(found, type) and issubclass(found, StreamferError):
                raise found(message)
            raise InternalError(f"the captioner failed: {kind}: {message}")
        return rest[0]

    def _gone(self) -> InternalError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        hint = "; is there enough memory?" if code == -signal.SIGKILL else ""
        return InternalError(f"the captioner's process ended ({how}){hint}")


def _end(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    process.kill()
    process.wait()
    pipe.close()


# -- the process itself -----------------------------------------------------------------------------------------


def serve(pipe: Connection) -> None:
    """Load what the parent asks for and answer its calls until it has gone."""
    loader, options = pipe.recv()
    try:
        module, _, function = loader.partition(":")
        captioner = getattr(import_module(module), function)(**options)
        _step_back()
        pipe.send(("ready", captioner.info))
    except Exception as error:
        pipe.send(_told(error))
        return
    while True:
        method, arguments = pipe.recv()
        try:
            pipe.send(("answer", getattr(captioner, method)(*arguments)))
        except Exception as error:
            pipe.send(_told(error))


def _step_back() -> None:
    """Lower the priority, once everything is loaded: until then the run waits for this process.

    Linux keeps niceness by thread, and libraries have started theirs by now.
    """
    with contextlib.suppress(OSError):
        niceness = os.nice(NICENESS)
        for thread in Path("/proc/self/task").glob("*"):
            os.setpriority(os.PRIO_PROCESS, int(thread.name), niceness)


def _told(error: Exception) -> tuple[str, str, str]:
    return "error", type(error).__name__, " ".join(str(error).split())


def main() -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(int(sys.argv[1])) as pipe, contextlib.suppress(EOFError, OSError):
        serve(pipe)


if __name__ == "__main__":
    main()
