"""``streamfer doctor``: everything is named, and what does not work decides the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import streamfer


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def settings(folder: Path, model: Path | str, detector: str = "lbp") -> Path:
    path = folder / "doctor.yaml"
    path.write_text(f"model: {{name: {model}}}\nfaces: {{detector: {detector}}}\n")
    return path


def test_json_names_versions_devices_models_and_redis(tmp_path: Path, tiny_model: Path, redis_url: str) -> None:
    done = streamfer("doctor", "--json", "-c", settings(tmp_path, tiny_model), "--redis", redis_url)
    facts: dict[str, Any] = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert set(facts) == {"streamfer", "compute", "models", "redis"}
    assert {"version", "python", "torch", "av", "insightface", "redis", "ffmpeg"} <= set(facts["streamfer"])
    assert facts["compute"]["device"].startswith(("cpu", "cuda"))
    # What was chosen, and why in brackets.
    assert all("(" in facts["compute"][name] for name in ("device", "precision"))
    assert facts["compute"]["decoding"] == "on the CPU"
    assert "available cores" in facts["compute"]["threads"]
    assert "joy, gloom, calm" in facts["models"]["expression"]
    assert "licence" in facts["models"]["faces"]
    assert facts["redis"]["server"].startswith("Redis ")


@pytest.mark.usefixtures("wide")
def test_text_says_the_same(tmp_path: Path, tiny_model: Path) -> None:
    done = streamfer("doctor", "-c", settings(tmp_path, tiny_model))
    last = [line.split("   ")[0].strip() for line in done.out.rstrip().splitlines()[-3:]]
    assert last == ["streamfer demo --serve", "streamfer annotate VIDEO", "streamfer run rtsp://CAMERA"]
    assert (done.code, done.err) == (0, "")
    for word in ("streamfer", "python", "torch", "precision", "threads", "expression", "embedded, data in"):
        assert word in done.out


@pytest.mark.usefixtures("wide")
def test_what_does_not_work_is_said_and_exits_with_2(tmp_path: Path) -> None:
    path = settings(tmp_path, "nothing", "nobody")
    done = streamfer("doctor", "-c", path, "--redis", "redis://admin:hunter2@127.0.0.1:1/0")
    assert done.code == 2
    assert "model 'nothing' is unknown" in done.out
    assert "nobody" in done.out
    assert "redis://***@127.0.0.1:1/0 cannot be reached" in done.out
    assert "hunter2" not in done.out + done.err
