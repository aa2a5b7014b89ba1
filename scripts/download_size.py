"""Says how much ``uv sync`` is about to download: its dry run comes in on standard input, the sizes are in uv.lock."""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "uv.lock"
SAID_FROM_MEGABYTES = 20


def fits(file: str) -> bool:
    """Tell whether a wheel's name fits this interpreter and machine, near enough for a size."""
    python, abi, where = file.removesuffix(".whl").split("-")[-3:]
    ours = f"cp3{sys.version_info[1]}"
    if ours not in python.split(".") and "abi3" not in abi and "py3" not in python:
        return False
    system = {"linux": "manylinux", "darwin": "macosx", "win32": "win"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    return "any" in where.split(".") or (system in where and (machine in where or "universal2" in where))


def megabytes(package: dict[str, Any]) -> float:
    """Size of the wheel that fits, or else of the source archive, in MB."""
    wheels = [wheel for wheel in package.get("wheels", []) if fits(wheel["url"].rsplit("/", 1)[1])]
    sizes = [wheel.get("size", 0) for wheel in wheels] or [package.get("sdist", {}).get("size", 0)]
    return max(sizes) / 1e6


def main() -> None:
    """Print one line where a download worth waiting for lies ahead."""
    dry_run = sys.stdin.read()
    ahead = set(re.findall(r"^ \+ ([\w.-]+)==([\w.+-]+)", dry_run, re.MULTILINE))
    if not ahead or "Would download" not in dry_run:
        return
    packages = tomllib.loads(LOCK.read_text(encoding="utf-8"))["package"]
    total = sum(megabytes(package) for package in packages if (package["name"], package.get("version")) in ahead)
    if total >= SAID_FROM_MEGABYTES:
        print(
            f"installing {len(ahead)} locked packages into .venv: up to {total / 1000:.1f} GB to download, about "
            f"{total * 1.8 / 1000:.1f} GB on disk (once; what uv has in its cache is not downloaded again)"
        )


main()
