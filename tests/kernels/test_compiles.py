"""Every kernel compiles for GPUs that are absent, within their registers and shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("compile_report.py")
#: Shared memory that one program may take, bytes (CUDA programming guide, technical specifications). 8.0 stands for
#: 8.6 and 8.9, too, which run the same instructions and have less of it.
SHARED_LIMIT = {80: 99 * 1024, 90: 227 * 1024}
KERNELS = {"windows_forward", "long_forward"}


def compiled(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the report where Triton is not in its interpreter."""
    kernels = SCRIPT.parent.parent.parent / "kernels"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(kernels), "TRITON_CACHE_DIR": str(folder)}
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The default cases, compiled for compute capability 9.0."""
    return compiled(tmp_path_factory.mktemp("triton"), "--capability", "90")


def check(found: list[dict[str, Any]]) -> None:
    for one in found:
        name = f"{one['case']}: {one['kernel']}"
        assert one["shared_bytes"] <= SHARED_LIMIT[one["capability"]], name
        assert one["registers"] <= 255, name


def test_the_main_shapes_fit_hopper(hopper: list[dict[str, Any]]) -> None:
    assert {one["kernel"] for one in hopper} == KERNELS
    check(hopper)


def test_the_main_shapes_keep_everything_in_registers(hopper: list[dict[str, Any]]) -> None:
    assert [(one["case"], one["kernel"]) for one in hopper if one["local_bytes"]] == []


def test_products_run_on_tensor_cores_and_loads_are_wide(hopper: list[dict[str, Any]]) -> None:
    for one in hopper:
        assert one["wgmma"] + one["mma"] > 0, one
        assert one["async_16"] + one["loads_16"] > 0, one
        assert one["loads_narrow"] == 0, one


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", [80, 90])
def test_every_shape_fits(capability: int, tmp_path: Path) -> None:
    found = compiled(tmp_path, "--capability", str(capability), "--all")
    assert len(found) == 2 * 14
    check(found)
    bf16 = [one for one in found if "bf16" in one["case"]]
    spilled = {f"{one['case']}: {one['kernel']}": one["local_bytes"] for one in bf16 if one["local_bytes"] > 128}
    assert spilled == {}
