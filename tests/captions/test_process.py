"""A captioner in a process of its own: calls, errors, what happens when it is killed, and when its parent goes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.captioners import LOADING_SECONDS, FakeCaptioner

from streamfer.captions.choosing import load_writer, resolve
from streamfer.captions.measurements import Measurements
from streamfer.captions.process import ProcessCaptioner
from streamfer.captions.protocol import Caption, CaptionError, CaptionRequest, Patience
from streamfer.captions.writers import ModelWriter
from streamfer.config import CaptionsConfig, Config
from streamfer.errors import ConfigError, InternalError, UnknownModelError

FAKE = "fakes.captioners:FakeCaptioner"
TESTS = str(Path(__file__).resolve().parent.parent)
CLIP = np.full((2, 32, 32, 3), 51, np.uint8)
REQUEST = CaptionRequest(Measurements("happiness", 0.9, (), 0.0, 2.0), "1", keyframes=CLIP)


@pytest.fixture(autouse=True)
def _fakes_are_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", TESTS)


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
    assert far.caption([CLIP]) == near.caption([CLIP])
    asked = far.caption([CLIP, CLIP], ["who?", "what?"])
    assert [one.split()[0] for one in asked] == ["who?", "what?"]
    assert far.answer_yes_no([CLIP], ["is it dark?"]) == [pytest.approx(0.2)]
    with pytest.raises(ConfigError, match="question is empty"):
        far.caption([CLIP], [" "])
    assert far.caption([CLIP])[0]
    number = far._process.pid
    del far
    assert gone(number)


def loads(far: ProcessCaptioner) -> bool:
    return not far._ready and far._process.poll() is None


def test_it_runs_behind_the_labels_and_survives_an_interrupt() -> None:
    far = process()
    assert far.info.name == "far"
    number = far._process.pid
    assert os.getpriority(os.PRIO_PROCESS, number) > os.getpriority(os.PRIO_PROCESS, 0)
    os.kill(number, signal.SIGINT)
    assert far.caption([CLIP])[0]
    far.close()
    assert gone(number)


def test_a_batch_that_hangs_can_be_torn_away_and_the_next_call_waits_for_the_next_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = process(delay=600)
    assert far.info.name == "far"
    asked, receive = threading.Event(), far._receive

    def received() -> object:
        asked.set()
        return receive()

    monkeypatch.setattr(far, "_receive", received)
    failures: list[Exception] = []

    def call() -> None:
        try:
            far.caption([CLIP])
        except InternalError as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert asked.wait(90)
    far.close()
    thread.join(90)
    assert not thread.is_alive()
    assert "signal 9" in str(failures[0])
    assert not loads(far)
    second = threading.Thread(target=call)
    second.start()
    while not loads(far):
        time.sleep(0.01)
    far.close()
    second.join(90)
    assert not second.is_alive()


def test_loading_again_is_neither_a_failure_nor_counted_against_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    far = ProcessCaptioner({"name": "far"}, loader="fakes.captioners:load_slowly")
    writer = ModelWriter(far, CaptionsConfig())
    assert writer.info.name == "far"
    far.close()
    monkeypatch.setenv(LOADING_SECONDS, "4")
    writer.patience = Patience(3, threading.Event(), 1.0)
    # Loading takes longer than this limit, writing does not.
    (caption,) = writer.write([REQUEST])
    # What the fake wrote came in time; the checks put measured words in its place.
    assert isinstance(caption, Caption)
    assert caption.replaced
    far.close()


@pytest.mark.parametrize("stopped", [False, True], ids=["too long", "stopped"])
def test_one_that_hangs_is_killed(stopped: bool) -> None:
    far, stop = process(delay=600), threading.Event()
    writer = ModelWriter(far, CaptionsConfig())
    assert writer.info.name == "far"
    if stopped:
        stop.set()
    writer.patience = Patience(600 if stopped else 0.5, stop, 0.2)
    (found,) = writer.write([REQUEST])
    assert isinstance(found, CaptionError)
    assert found.cause == "captioner_timeout"
    assert gone(far._process.pid)


def test_errors_of_loading_come_back_as_they_are() -> None:
    options = {"overrides": {"clip.strode": 1}}
    with pytest.raises(ConfigError, match="did you mean 'stride'"):
        _ = ProcessCaptioner(options, loader="streamfer.config:load_config").info
    broken = ProcessCaptioner({"no": "argument"}, loader=FAKE)
    with pytest.raises(InternalError, match=r"TypeError: .*'no'"):
        _ = broken.info


def test_captions_are_off_unless_asked_for() -> None:
    assert load_writer(Config()) is None


def test_a_captioner_is_chosen_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFER_HOME", str(tmp_path))
    writer = load_writer(Config(captions=CaptionsConfig(model="auto")))
    assert writer is not None
    assert (writer.info.name, writer.info.crop) == ("measured", None)
    with pytest.raises(UnknownModelError, match="captioner 'nobody' is unknown"):
        resolve("nobody")
    with pytest.raises(UnknownModelError, match="did you mean 'measured'"):
        resolve("measure")
    assert resolve("org/name") == "org/name"
    (tmp_path / "foreign").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("foreign") == "foreign"
    with pytest.raises(ConfigError, match="measured words speak en, not 'de'"):
        load_writer(Config(captions=CaptionsConfig(model="measured", language="de")))
    with pytest.raises(ConfigError, match="writes English"):
        load_writer(Config(captions=CaptionsConfig(model="org/name", language="de")))


def test_an_error_of_the_model_is_the_captions_alone() -> None:
    writer = ModelWriter(FakeCaptioner(error=ValueError("no such token")), CaptionsConfig())
    (found,) = writer.write([REQUEST])
    assert isinstance(found, CaptionError)
    assert (found.cause, str(found)) == ("captioner_failed", "ValueError: no such token")
