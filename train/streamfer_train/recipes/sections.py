"""Sections of settings that several recipes have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from streamfer.settings import Section


class RunSection(Section):
    """Where and how often; may differ when a run is continued. Each recipe gives ``out`` a default of its own."""

    out: Path
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints within an epoch")
    backend: Literal["auto", "nccl", "gloo"] = Field("auto", description="of processes that train together")


class LogConfig(Section):
    """What is written while training."""

    every: int = Field(10, ge=1, description="steps between rows of steps.csv")
    tensorboard: bool = True
    progress: bool = Field(True, description="progress bars where standard error is a terminal")
