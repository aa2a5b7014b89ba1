"""Saying where records are, in words that can be pasted."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from streamfer.redaction import redact_url

if TYPE_CHECKING:
    from streamfer.config import PublishConfig


def follow_command(config: PublishConfig, *extra: str) -> str:
    """Return the command that follows the records of this configuration, ready to be pasted."""
    words = [program(), "tail"]
    if config.redis is not None:
        words.append(redact_url(config.redis))
    if config.prefix != "streamfer":
        words += ["--prefix", config.prefix]
    if config.partitions != 1:
        words += ["--partitions", str(config.partitions)]
    return shlex.join([*words, *extra])


def program() -> str:
    """Return what to type for this program: its name where the shell finds it, else where it lies."""
    if shutil.which("streamfer"):
        return "streamfer"
    script = Path(sys.executable).parent / "streamfer"
    if not script.exists():
        return f"{sys.executable} -m streamfer"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)
