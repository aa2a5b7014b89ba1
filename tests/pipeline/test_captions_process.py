"""A captioner in a process of its own: calls, errors, what happens when it is killed, and when its parent goes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.captioners import FakeCaptioner

from streamfer.build import _start_captioner
from streamfer.captions import registry
from streamfer.captions.clips import choose_captioner
from streamfer.captions.context import ClipContext
from streamfer.captions.process import ProcessCaptioner
from streamfer.captions.registry import CaptionerEntry
from streamfer.config import Config
from streamfer.errors import ConfigError, InternalError, UnknownModelError
from streamfer.threads import plan_threads

FAKE = "fakes.captioners:FakeCaptioner"
CLIP = np.full((2, 32, 32, 3), 51, np.uint8)


def process(**options: object) -> ProcessCaptioner:
    return ProcessCaptioner({"name": "far", **options}, loader=FAKE)


def gone(number: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_call_is_what_it_would_be_here() -> None:
    far, near = process(), FakeCaptioner(name="far")
    assert far.info == near.info
    assert [one.text for one in far.caption([CLIP])] == [one.text for one in near.caption([CLIP])]
    asked = far.caption([CLIP, CLIP], ["who?", "what?"])
    assert [one.text.split()[0] for one in asked] == ["who?", "what?"]
    assert far.answer_yes_no([CLIP], ["is it dark?"]) == [pytest.approx(0.2)]
    # The fake takes no contexts: it describes all the same.
    assert far.describe([CLIP], [ClipContext(0.5)])[0].text == near.caption([CLIP])[0].text
    with pytest.raises(ConfigError, match="question is empty"):
        far.caption([CLIP], [" "])
    assert far.caption([CLIP])[0].text
    number = far._child._process.pid
    del far
    assert gone(number)


def test_it_runs_behind_the_labels_and_survives_an_interrupt() -> None:
    far = process()
    assert far.info.name == "far"
    number = far._child._process.pid
    assert os.getpriority(os.PRIO_PROCESS, number) > os.getpriority(os.PRIO_PROCESS, 0)
    os.kill(number, signal.SIGINT)
    assert far.caption([CLIP])[0].text
    far.close()
    assert gone(number)


def test_a_batch_that_hangs_can_be_torn_away_and_the_next_start_is_not_waited_for() -> None:
    far = process(delay=60)
    assert far.info.name == "far"
    failures: list[Exception] = []

    def call() -> None:
        try:
            far.caption([CLIP])
        except InternalError as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.2)
    far.abort()
    thread.join(30)
    assert not thread.is_alive()
    assert "signal 9" in str(failures[0])
    began = time.monotonic()
    with pytest.raises(InternalError, match="still loading"):
        far.caption([CLIP])
    assert time.monotonic() - began < 5
    far.close()


def test_errors_of_loading_come_back_as_they_are() -> None:
    options = {"overrides": {"clip.strode": 1}}
    with pytest.raises(ConfigError, match="did you mean 'stride'"):
        _ = ProcessCaptioner(options, loader="streamfer.config:load_config").info
    broken = ProcessCaptioner({"no": "argument"}, loader=FAKE)
    with pytest.raises(InternalError, match=r"TypeError: .*'no'"):
        _ = broken.info


def test_captions_are_off_unless_asked_for() -> None:
    assert _start_captioner(Config(), plan_threads(2)) is None


def test_a_captioner_is_chosen_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries: list[CaptionerEntry] = []
    monkeypatch.setattr(registry, "list_captioners", lambda: tuple(entries))
    monkeypatch.setenv("STREAMFER_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no captioner is installed; add one with: streamfer models import"):
        choose_captioner("auto")
    entries.append(CaptionerEntry("b", tmp_path, "imported", True, "", 0, ""))
    assert choose_captioner(None) == "b"
    entries.append(CaptionerEntry("a", tmp_path, "imported", True, "", 0, ""))
    with pytest.raises(ConfigError, match=r"several captioners are here \(b, a\)"):
        choose_captioner(None)
    entries.append(CaptionerEntry("own", tmp_path, "built-in", True, "", 0, ""))
    assert choose_captioner("auto") == "own"
    with pytest.raises(UnknownModelError, match="captioner 'nobody' is unknown"):
        choose_captioner("nobody")
    assert choose_captioner("org/name") == "org/name"
    (tmp_path / "foreign").mkdir()
    monkeypatch.chdir(tmp_path)
    assert choose_captioner("foreign") == "foreign"
