"""The configuration of `streamfer train faces`, read from YAML and checked before anything is computed."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from streamfer.errors import ConfigError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Part):
    """Where the image sets and the teacher are; ``root`` holds faces/, ict_face/, videos/ and weights/."""

    root: Path
    teacher: Path = Path("weights/yunet_n_dynamic.onnx")

    def teacher_path(self) -> Path:
        """The teacher's file; a relative ``teacher`` is taken from ``root``."""
        return self.root / self.teacher


class PoolConfig(_Part):
    """Composed pictures: ``shards`` times ``shard_size`` for training, ``validation`` to validate, ``side`` pixels."""

    shards: int = Field(4, ge=1)
    shard_size: int = Field(1500, ge=1)
    validation: int = Field(600, ge=1)
    side: int = Field(320, ge=64)
    heads: int = Field(700, ge=1)
    photographs: bool = True
    """False composes rendered heads only, for weights without third-party photographs."""
    seed: int = 7


class OptimiserConfig(_Part):
    """AdamW with linear warm-up and cosine decay; ``average`` is the decay of the weights' moving average."""

    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup: int = Field(200, ge=0)
    clip: float = Field(10.0, gt=0)
    average: float = Field(0.998, ge=0, lt=1)


class LossConfig(_Part):
    """Multipliers of the three losses."""

    score: float = Field(1.0, ge=0)
    box: float = Field(2.0, ge=0)
    landmarks: float = Field(8.0, ge=0)


class TrainConfig(_Part):
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


class FacesConfig(_Part):
    """Everything that `streamfer train faces` needs; ``work`` holds sources, pool, checkpoints and logs."""

    data: DataConfig
    work: Path
    pool: PoolConfig = PoolConfig()
    train: TrainConfig = TrainConfig()


def load_config(path: Path, overrides: dict[str, str] | None = None) -> FacesConfig:
    """Read ``path``; ``overrides`` maps dotted names to YAML values (``{"train.steps": "100"}``).

    Raises:
        ConfigError: the file is absent, is not YAML, or a setting is unknown or out of range.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing configuration file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML; compare it with configs/train/faces.yaml") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds no settings; compare it with configs/train/faces.yaml")
    for name, value in (overrides or {}).items():
        _put(settings, name, value)
    try:
        return FacesConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg'].lower()}; see configs/train/faces.yaml") from error


def _put(settings: dict[str, object], name: str, value: str) -> None:
    *parents, last = name.split(".")
    place = settings
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{name}: {parent} holds a value, not settings; correct the name")
        place = inner
    place[last] = yaml.safe_load(value)
