"""The configuration of the face detector, read from YAML and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, field_validator

from streamfer.arguments import Section
from streamfer.settings import load_settings
from streamfer_train.recipes.sections import Seed

EXAMPLE = "train/builtin/configs/faces.yaml"
SMALLEST_FACE, LEAST_SIDE, LARGE_FACE = 16, 640, 96
"""The file asks to be read so: faces of so many pixels are found, smaller frames are enlarged to this longer side, and
faces from the last on are looked for at a coarse scale as well (docs/results/faces.md, "At which size frames are read",
"Faces that fill the picture")."""


class OptimiserConfig(Section):
    """AdamW with linear warm-up and cosine decay; ``average`` is the decay of the weights' moving average."""

    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup: int = Field(200, ge=0)
    clip: float = Field(10.0, gt=0)
    average: float = Field(0.999, ge=0, lt=1)


class LossConfig(Section):
    """Multipliers of the three losses."""

    score: float = Field(1.0, ge=0)
    box: float = Field(2.0, ge=0)
    landmarks: float = Field(8.0, ge=0)


class TrainConfig(Section):
    """Steps, the sides (pixels, multiples of 32) of which one is drawn each step, and the batch.

    ``batch``, which processes share, is meant at 256 pixels; larger pictures come in smaller batches, so that every
    step costs the same.
    """

    steps: int = Field(24000, ge=1)
    batch: int = Field(25, ge=1)
    start: Path | None = None
    """An exported network to begin with; without one the weights are drawn."""
    sides: tuple[int, ...] = (192, 256, 320, 384, 448)
    seed: Seed = 1
    bfloat16: bool = True
    checkpoint_every: int = Field(200, ge=1)
    log_every: int = Field(20, ge=1)
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()

    @field_validator("sides")
    @classmethod
    def _multiples(cls, sides: tuple[int, ...]) -> tuple[int, ...]:
        if not sides or any(side < 64 or side % 32 for side in sides):
            raise ValueError("each side must be a multiple of 32 and at least 64")
        return sides


class FacesConfig(Section):
    """Everything that the recipe needs: ``data`` holds faces/ and videos/, ``work`` the checkpoint and the tables.

    Training runs on ``device``; so many ``workers`` make its pictures.
    """

    data: Path
    work: Path
    device: str = "cpu"
    workers: int = Field(0, ge=0)
    train: TrainConfig = TrainConfig()


def load_config(path: Path, overrides: Sequence[str] = ()) -> FacesConfig:
    """Read ``path`` and settings of the form ``train.steps=100`` (values in YAML).

    Raises:
        ConfigError: the file is absent, is not YAML, or a setting is unknown or out of range.
    """
    return load_settings(FacesConfig, path, overrides, example=EXAMPLE)
