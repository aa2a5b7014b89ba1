"""Faults of a live run, as a subscriber and an operator see them."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import Program, discover, streamfer_while, wait_for
from published import everything

from streamfer.publish import EmbeddedRedis
from streamfer.records import ClipLabelled, Gap, SourceStateChanged

#: A program needs twenty seconds to load on a quiet machine.
START_SECONDS = 240.0
QUICK = ("--detector", "lbp", "--fps", "4", "--clip-seconds", "1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis.start(tmp_path / "redis") as server:
        yield server


def states(url: str, source: str) -> list[str]:
    return [
        record.data.state
        for record in everything(url)
        if record.subject == source and isinstance(record.data, SourceStateChanged)
    ]


def after_the_end(url: str) -> list[str]:
    told = states(url, "lobby")
    return told[told.index("ended") :] if "ended" in told else []


@contextmanager
def frozen(server: EmbeddedRedis) -> Iterator[None]:
    facts = discover(server.folder)
    assert facts is not None
    os.kill(int(facts["server"]), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(int(facts["server"]), signal.SIGCONT)


def configured(path: Path, *sources: str, more: str = "") -> Path:
    path.write_text("sources:\n" + "\n".join(f"  - {source}" for source in sources) + f"\n{more}\n")
    return path


def test_frozen_redis_delays_no_end_and_loses_nothing(tiny_model: Path, server: EmbeddedRedis, tmp_path: Path) -> None:
    """SIGTERM while Redis is frozen: exit 0 within the shutdown's seconds, and the next run publishes the rest."""
    more = (
        f"publish: {{redis: '{server.url}'}}\nshutdown: {{seconds: 2}}\nlive: {{backoff_first: 0.1, backoff_cap: 0.1}}"
    )
    config = configured(tmp_path / "run.yaml", "{url: 'rtsp://127.0.0.1:9/a', id: lobby}", more=more)
    words = ("run", "-q", "-c", config, "--model", tiny_model, *QUICK)
    began = 0.0
    with ExitStack() as stack:

        def freeze() -> None:
            nonlocal began
            wait_for(lambda: "backoff" in states(server.url, "lobby"), "it runs", START_SECONDS)
            stack.enter_context(frozen(server))
            time.sleep(1)
            began = time.monotonic()

        done = streamfer_while(freeze, *words)
        took = time.monotonic() - began
    assert done.code == 0
    assert took < 60, "on a busy machine; two seconds and a little elsewhere"
    assert "records wait in" in done.err
    # What waited comes at once; the run's own records when the models are loaded.
    again = streamfer_while(
        lambda: wait_for(lambda: "backoff" in after_the_end(server.url), "the next run", START_SECONDS), *words
    )
    assert again.code == 0
    told = states(server.url, "lobby")
    assert told.count("ended") == 2
    assert told[-1] == "ended"
    numbers = [record.sequence or 0 for record in everything(server.url)]
    assert numbers == sorted(set(numbers))
    first = numbers[: told.index("ended") + 1]
    assert first == list(range(first[0], first[0] + len(first))), "not one is missing"


def test_a_second_signal_ends_it_at_once(tiny_model: Path, server: EmbeddedRedis, tmp_path: Path) -> None:
    more = f"publish: {{redis: '{server.url}'}}\nshutdown: {{seconds: 600}}"
    config = configured(tmp_path / "run.yaml", "{url: 'rtsp://127.0.0.1:9/a', id: lobby}", more=more)
    with Program("run", "-c", config, "--model", tiny_model, *QUICK) as program:
        wait_for(lambda: "backoff" in states(server.url, "lobby"), "it runs", START_SECONDS)
        with frozen(server):
            for _ in range(2):
                # As timeout does: to its child, and to the group in which that is.
                program.signal(signal.SIGTERM)
            wait_for(lambda: not catches(program.pid, signal.SIGTERM), "the first one is taken", START_SECONDS)
            wait_for(lambda: not catches(program.pid, signal.SIGTERM, "SigIgn"), "another one ends it", START_SECONDS)
            assert psutil.Process(program.pid).status() != psutil.STATUS_ZOMBIE, "both were one"
            program.signal(signal.SIGTERM)
            began = time.monotonic()
            done = program.wait()
    assert time.monotonic() - began < 60
    assert done.code == -signal.SIGTERM


def test_hanging_up_reloads_and_a_broken_file_changes_nothing(
    tiny_model: Path, server: EmbeddedRedis, tmp_path: Path
) -> None:
    more = f"publish: {{redis: '{server.url}'}}\nlive: {{backoff_first: 0.2, backoff_cap: 1}}"
    file = tmp_path / "run.yaml"
    source = "{{url: 'rtsp://127.0.0.1:9/{0}', id: {0}}}"
    configured(file, source.format("one"), source.format("two"), more=more)
    err = io.StringIO()
    stays = "SIGHUP: captions changed in the file, which a restart alone takes over"

    def change() -> None:
        wait_for(lambda: "backoff" in states(server.url, "two"), "it runs", START_SECONDS)
        file.write_text("sources: [{url: 'rtsp://127.0.0.1:9/x', color: red}]")
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(lambda: "sources.0.color" in err.getvalue(), "the broken file is read")
        configured(file, source.format("x"), source.format("x"), more=f"{more}\nsampling: {{fps: 7}}")
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(lambda: "the id 'x' is used twice" in err.getvalue(), "that one is read and refused, too")
        again = f"{more}\ncaptions: {{when: all}}"
        configured(file, source.format("two"), source.format("three"), more=again)
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(lambda: states(server.url, "one")[-1:] == ["ended"], "one has left")
        wait_for(lambda: "backoff" in states(server.url, "three"), "three has joined")
        assert "ended" not in states(server.url, "two")
        configured(file, source.format("two"), source.format("three"), more=again.replace("cap: 1", "cap: 2"))
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(lambda: "ended" in states(server.url, "two"), "other waits begin anew")
        wait_for(lambda: err.getvalue().count(stays) == 2, "and what stays is said each time")

    done = streamfer_while(change, "run", "-q", "-c", file, "--model", tiny_model, *QUICK, err=err)
    assert done.code == 0
    assert done.err.count("the old configuration stays: ") == 2
    assert "sources.0.color" in done.err
    assert "reloaded; sources changed: one, three" in done.err
    assert done.err.count(stays) == 2
    assert states(server.url, "three")[-1] == states(server.url, "two")[-1] == "ended"


def test_a_pipe_that_nobody_reads_stops_nothing(tiny_model: Path, server: EmbeddedRedis, tmp_path: Path) -> None:
    more = f"publish: {{redis: '{server.url}'}}\nlive: {{backoff_first: 0.02, backoff_cap: 0.02}}"
    sources = [f"{{url: 'rtsp://127.0.0.1:9/{name}', id: {name}}}" for name in "abcdefgh"]
    config = configured(tmp_path / "run.yaml", *sources, more=more)
    words = ["run", "-c", str(config), "--model", str(tiny_model), *QUICK]
    process = subprocess.Popen(
        [sys.executable, "-c", "from streamfer.cli import main; main()", *words], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    try:
        # Two lines of a hundred bytes a try: a pipe of 4 kB is full long before.
        wait_for(lambda: len(everything(server.url)) > 120, "records go on", 240)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_suspended_run_says_so_and_goes_on(
    tiny_model: Path, server: EmbeddedRedis, tmp_path: Path, rtsp_server: Callable[..., Any], long_face_film: Path
) -> None:
    """Stopped for longer than a stall: one gap from the last good picture to the next, and then fresh labels."""
    source = f"{{url: '{rtsp_server('--file', str(long_face_film)).url()}', id: hall}}"
    more = f"publish: {{redis: '{server.url}'}}\nlive: {{stall_timeout: 4}}"
    config = configured(tmp_path / "run.yaml", source, more=more)

    def clips(since: float) -> list[ClipLabelled]:
        every = [record.data for record in everything(server.url)]
        return [data for data in every if isinstance(data, ClipLabelled) and data.clip.start_time > since]

    with Program("run", "-q", "-c", config, "--model", tiny_model, *QUICK) as program:
        wait_for(lambda: len(clips(0.0)) > 2, "labels", START_SECONDS)
        program.signal(signal.SIGSTOP)
        stopped = time.time()
        time.sleep(9)
        woke = time.time()
        program.signal(signal.SIGCONT)
        wait_for(lambda: bool(clips(woke)), "labels go on")
        took = time.time() - woke
        program.signal(signal.SIGTERM)
        assert program.wait().code == 0
    every = [record.data for record in everything(server.url) if isinstance(record.data, Gap)]
    # A busy machine drops pictures before and after it, too.
    gaps = [gap for gap in every if gap.end_time > stopped + 1 and gap.start_time < woke - 1]
    assert {gap.cause for gap in gaps} == {"suspended"}
    assert len({gap.start_time for gap in gaps}) == 1
    assert stopped - 10 < gaps[-1].start_time < stopped + 0.5
    assert woke <= gaps[-1].end_time < woke + took
    assert took < 60, "two seconds and the clip's own; more on a busy machine"


def catches(process: int, number: int, how: str = "SigCgt") -> bool:
    """Whether a process has a handler for a signal, or ignores it (``SigIgn``)."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith(how))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("seconds", [0.0, 1.5, pytest.param(5.0, marks=pytest.mark.slow), None])
def test_a_signal_at_any_phase_of_the_start_is_obeyed(seconds: float | None, server: EmbeddedRedis) -> None:
    """From its first words on, while modules and models load and when they run: exit 0, and nobody is left behind."""
    with Program("run", "-q", "rtsp://127.0.0.1:9/x", "--redis", server.url, "--captions", "changes") as program:
        wait_for(lambda: catches(program.pid, signal.SIGTERM), "it knows the signal", START_SECONDS)
        if seconds is None:
            wait_for(lambda: bool(everything(server.url)), "it runs", START_SECONDS)
        else:
            time.sleep(seconds)
        children = psutil.Process(program.pid).children(recursive=True)
        program.signal(signal.SIGTERM)
        began = time.monotonic()
        assert program.wait().code == 0
    assert time.monotonic() - began < 60
    wait_for(lambda: not any(child.is_running() for child in children), "nobody is left behind")
