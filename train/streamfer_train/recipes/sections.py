"""Sections of settings that several recipes have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from streamfer.arguments import Section

#: What begins the chances of a training; PyTorch's generators take no more, with a step's number in it.
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class RunSection(Section):
    """Where and how often; may differ when a run is continued. Each recipe gives ``out`` a default of its own."""

    out: Path
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints within an epoch")
    backend: Literal["auto", "nccl", "gloo"] = Field("auto", description="of processes that train together")


class StepsConfig(Section):
    """How long a training is and what a step sees: ``batch`` is over all processes and accumulated micro-batches."""

    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    accumulate: int = Field(1, ge=1, description="micro-batches that make one step")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} does not divide batch {self.batch}")
        return self


class LogConfig(Section):
    """What is written while training."""

    every: int = Field(10, ge=1, description="steps between rows of steps.csv")
    tensorboard: bool = True
    progress: bool = Field(True, description="progress bars where standard error is a terminal")
