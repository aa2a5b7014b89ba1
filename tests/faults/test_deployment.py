"""What is shipped to run streamfer as a service is what the machine's own tools take."""

from __future__ import annotations

import re
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


def test_the_matrix_of_faults_names_tests_that_are_there() -> None:
    matrix = (REPOSITORY / "docs" / "reliability.md").read_text()
    rows = [
        line for line in matrix.splitlines() if line.startswith("| ") and "`test_" in line.replace("`Test", "`test")
    ]
    assert len(rows) >= 55
    named = set(re.findall(r"`(?:Test\w+\.)?(test_\w+?)(?:\[[^\]]*\])?`", matrix))
    written = "".join(path.read_text() for path in sorted((REPOSITORY / "tests").rglob("*.py")))
    assert sorted(name for name in named if f"def {name}(" not in written) == []
