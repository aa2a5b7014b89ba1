"""A mistake in what a benchmark is asked for is one line with code 2, before anything is measured."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import cv2
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
MISTAKES = {
    "clip": [
        (["absent.mp4"], "absent.mp4: no such file or folder"),
        (["--threads", "0"], "'0' is no whole number from 1"),
        (["--fps", "nan"], "'nan' is no number above 0"),
    ],
    "sources": [
        (["--cameras", "x"], "'x' is no whole number from 1"),
        (["--cameras", "1,0"], "'0' is no whole number"),
    ],
    "windows": [(["--batch", "0"], "'0' is no whole number from 1")],
    "tracking": [
        (["--crowds", "absent.parquet"], "absent.parquet: no whole crowds.parquet; fetch it again"),
        (["--clips", "absent"], "absent/ground_truth.json"),
        (["--seeds", "0"], "'0' is no whole number from 1"),
    ],
}


@pytest.mark.parametrize(
    ("name", "words", "says"), [(name, words, says) for name, told in MISTAKES.items() for words, says in told]
)
def test_a_mistake_is_one_line(
    name: str,
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    asked, benchmark = importlib.import_module("asked"), importlib.import_module(name)
    # What a benchmark sets for its process is not for the tests after it.
    monkeypatch.setattr(cv2, "setNumThreads", lambda _: None)
    monkeypatch.setattr(benchmark, "apply_environment", lambda *_: None, raising=False)
    with pytest.raises(SystemExit) as ended:
        asked.asked(benchmark.main)
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert says in told[-1]
    assert told[-1].startswith(f"{name}.py: ")
