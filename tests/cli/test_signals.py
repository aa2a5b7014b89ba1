"""A signal that comes while a run gets ready is obeyed, also where what it raises is lost or becomes another error."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from streamfer import Session
from streamfer.api.running import Run
from streamfer.cli.signals import INTERRUPTED, _reload, stopping


class Getting:
    """A session whose run begins late."""

    reread = None

    def __init__(self) -> None:
        self.runs, self.stopped = threading.Event(), threading.Event()

    def stop(self) -> bool:
        """Stop the run, if there is one."""
        if self.runs.is_set():
            self.stopped.set()
        return self.runs.is_set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, INTERRUPTED)])
def test_an_order_that_is_lost_ends_the_run_that_begins(number: int, code: int) -> None:
    session: Any = Getting()
    with stopping(session, terminated=0) as told:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):  # as a finaliser of any library would
            signal.raise_signal(number)
        session.runs.set()
        assert session.stopped.wait(60)
    assert told.code() == code


def test_without_a_file_nothing_is_read_again(capsys: pytest.CaptureFixture[str], face_film: Path) -> None:
    session = Session()
    _reload(session)
    assert "there is no --config file to read again" in capsys.readouterr().err
    run = session.run = Run(session, [str(face_film)])
    session.reread = lambda: session.config
    _reload(session)
    assert "stays: nothing to reload: this run's sources stand on the command line" in capsys.readouterr().err
    assert run.specs.keys() == {face_film.name}


def test_an_order_that_comes_out_as_another_error_is_an_order() -> None:
    session: Any = Getting()
    with pytest.raises(SystemExit) as ended, stopping(session, terminated=0):  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGTERM)
        except SystemExit as order:
            session.runs.set()
            raise ValueError("a class cannot be built") from order
    assert ended.value.code == 0


def test_an_error_without_an_order_stays_one() -> None:
    session: Any = Getting()
    with pytest.raises(ValueError, match="broken"), stopping(session):
        raise ValueError("broken")
