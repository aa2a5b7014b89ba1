"""What a command does not load: seconds of imports that turn out unnecessary are seconds of waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from streamfer.cli import options

#: Runs a command and prints which of some modules it has loaded.
SCRIPT = """
import sys
from streamfer.cli import main
names, sys.argv = set(sys.argv[1].split()), ["streamfer", *sys.argv[2:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
finally:
    print("loaded:", *sorted(names & set(sys.modules)), file=sys.stderr)
"""
HEAVY = "torch av cv2 pandas onnxruntime onnx insightface skimage scipy supervision transformers open_clip torchvision"


def loaded(names: str, *words: str | Path, **environment: str) -> list[str]:
    """Which of ``names`` the command ``streamfer WORDS`` has loaded when it ends."""
    command = [sys.executable, "-c", SCRIPT, names, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}, timeout=240
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("loaded:"), done.stderr
    return last.split()[1:]


def test_help_loads_no_library() -> None:
    assert loaded(f"{HEAVY} numpy redis", "annotate", "--help") == []


def test_tail_loads_no_model(redis_url: str) -> None:
    assert loaded(f"{HEAVY} numpy opentelemetry streamfer.config", "tail", redis_url, "--idle", "0.1") == []


def test_listing_models_loads_none(tmp_path: Path) -> None:
    assert loaded("torch scipy supervision transformers", "models", "list", STREAMFER_HOME=str(tmp_path)) == []


def test_a_label_needs_what_the_model_needs_and_a_finished_file_needs_nothing(face_film: Path, tmp_path: Path) -> None:
    words = ("annotate", face_film, "-o", tmp_path / "out", "--fps", "2", "-q", "--detector", "builtin")
    unused = "transformers open_clip torchvision timm pandas redis onnx insightface streamfer.captions.choosing"
    assert loaded(unused, *words) == []
    before = (tmp_path / "out" / "astronaut.mp4.clips.csv").stat().st_mtime_ns
    assert loaded(HEAVY, *words) == []
    assert (tmp_path / "out" / "astronaut.mp4.clips.csv").stat().st_mtime_ns == before


def test_a_finished_file_with_captions_needs_no_model(face_film: Path, tmp_path: Path) -> None:
    words = ("annotate", face_film, "-o", tmp_path / "out", "--fps", "2", "-q", "--captions", "changes")
    assert loaded("transformers open_clip redis", *words) == []
    assert loaded(HEAVY, *words) == []


def test_the_doctor_needs_no_tracker_and_no_extra(tmp_path: Path, redis_url: str) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text("faces: {detector: builtin}\n")
    assert loaded("scipy supervision trackers insightface onnx", "doctor", "-c", settings, "--redis", redis_url) == []


def test_help_names_the_detectors_that_there_are() -> None:
    from streamfer.faces.registry import ENTRIES

    shown = options._DETECTORS.split(", ")
    assert shown == [entry.name for entry in ENTRIES if not entry.pack]
    assert "builtin" in shown
