"""What is shipped to run streamfer as a service is what the machine's own tools take."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_the_unit_is_one(tmp_path: Path) -> None:
    unit = (REPOSITORY / "deploy" / "streamfer.service").read_text()
    program = Path(sys.executable).parent / "streamfer"
    assert "/opt/streamfer/bin/streamfer run " in unit
    placed = tmp_path / "streamfer.service"
    placed.write_text(unit.replace("/opt/streamfer/bin/streamfer", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", placed], capture_output=True, text=True, check=False)
    about_it = [line for line in (done.stdout + done.stderr).splitlines() if "streamfer" in line]
    assert (done.returncode, about_it) == (0, [])
