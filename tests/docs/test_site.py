"""The documentation is a site that builds without a warning, its links and anchors among it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-f",
        "mkdocs.yml",
        "-d",
        str(tmp_path / "site"),
    ]
    # Its makers' notice about their next program is no warning of ours.
    told = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=told, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "how-to" / "cameras.html").read_text(encoding="utf-8")
    assert 'href="../reliability.html"' in page
    card = (tmp_path / "site" / "lawful-use.html").read_text(encoding="utf-8")
    assert "<code>streamfer/weights/mini.md</code>" in card
