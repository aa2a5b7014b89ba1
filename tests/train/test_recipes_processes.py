"""Two processes that talk: one of them here, the other an interpreter of its own, as torchrun would start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from free_ports import torchrun_variables

from streamfer.errors import ConfigError, OutputError
from streamfer_train.recipes.processes import joined

OTHER = """
import sys
from streamfer_train.recipes.processes import PeerError, joined
with joined("cpu") as world:
    print(world.share(lambda: sys.exit("only the leading process works")))
    print(world.first(lambda: open(sys.argv[1]).read()))
    print(world.sums([1.0, 2.0]), world.everyones("b"))
    for talk in (lambda: world.share(lambda: None), lambda: world.sums([0.0])):
        try:
            talk()
        except PeerError as error:
            print("error:", error)
"""


def test_a_leading_process_that_fails_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What torchrun sets.
    for name, value in torchrun_variables().items():
        monkeypatch.setenv(name, value)
    made = tmp_path / "made"
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(made)],
        env={**os.environ, "RANK": "1", "LOCAL_RANK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def full() -> None:
        raise OutputError("no space left")

    def lead() -> None:
        with joined("cpu") as world:
            assert world.share(lambda: "hello") == "hello"
            assert world.first(lambda: made.write_text("made")) == 4
            assert world.sums([3.0, 4.0]) == [4.0, 6.0]
            assert world.everyones("a") == ["a", "b"]
            world.share(full)

    try:
        with pytest.raises(OutputError, match="no space left"):
            lead()
        shown = other.communicate(timeout=120)[0].splitlines()
    finally:
        other.kill()
    assert other.returncode == 0, shown
    said = [line for line in shown if line.startswith(("hello", "made", "[4.0", "error"))]
    assert said[:3] == ["hello", "made", "[4.0, 6.0] ['a', 'b']"]
    assert said[3] == "error: process 1 stops because process 0 did, whose message says why"
    assert said[4].startswith("error: process 1 stops because another one has ended")


def test_alone_everything_is_done_here() -> None:
    with joined("cpu") as world:
        assert world.leads
        assert world.share(lambda: 1) == world.first(lambda: 1) == 1
        assert world.everyones(2) == [2]
        with pytest.raises(ZeroDivisionError):
            world.share(lambda: 1 // 0)


def test_half_of_torchruns_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="RANK is None; start several processes with torchrun"), joined("cpu"):
        pass
