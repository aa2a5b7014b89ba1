"""The configuration of `streamfer train faces`, read from YAML and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, field_validator

from streamfer.settings import Section, load_settings

EXAMPLE = "train/builtin/configs/faces.yaml"


class DataConfig(Section):
    """Where the image sets and the teacher are; ``root`` holds faces/, ict_face/, videos/ and weights/."""

    root: Path
    teacher: Path = Path("weights/yunet_n_dynamic.onnx")

    def teacher_path(self) -> Path:
        """The teacher's file; a relative ``teacher`` is taken from ``root``."""
        return self.root / self.teacher


class PoolConfig(Section):
    """Composed pictures: ``shards`` times ``shard_size`` for training, ``validation`` to validate, ``side`` pixels."""

    shards: int = Field(4, ge=1)
    shard_size: int = Field(1500, ge=1)
    validation: int = Field(600, ge=1)
    side: int = Field(320, ge=64)
    heads: int = Field(700, ge=1)
    photographs: bool = True
    """False composes rendered heads only, for weights without third-party photographs."""
    seed: int = 7


class OptimiserConfig(Section):
    """AdamW with linear warm-up and cosine decay; ``average`` is the decay of the weights' moving average."""

    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup: int = Field(200, ge=0)
    clip: float = Field(10.0, gt=0)
    average: float = Field(0.998, ge=0, lt=1)


class LossConfig(Section):
    """Multipliers of the three losses."""

    score: float = Field(1.0, ge=0)
    box: float = Field(2.0, ge=0)
    landmarks: float = Field(8.0, ge=0)


class TrainConfig(Section):
    """Steps, the sides (pixels, multiples of 32) of which one is drawn each step, and the batch.

    ``batch`` is meant at 256 pixels; larger pictures come in smaller batches, so that every step costs the same.
    """

    steps: int = Field(5100, ge=1)
    batch: int = Field(32, ge=1)
    sides: tuple[int, ...] = (192, 256, 320, 384, 448)
    seed: int = 1
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
    """Everything that `streamfer train faces` needs; ``work`` holds sources, pool, checkpoints and logs."""

    data: DataConfig
    work: Path
    pool: PoolConfig = PoolConfig()
    train: TrainConfig = TrainConfig()


def load_config(path: Path, overrides: Sequence[str] = ()) -> FacesConfig:
    """Read ``path`` and settings of the form ``train.steps=100`` (values in YAML).

    Raises:
        ConfigError: the file is absent, is not YAML, or a setting is unknown or out of range.
    """
    return load_settings(FacesConfig, path, overrides, example=EXAMPLE)
