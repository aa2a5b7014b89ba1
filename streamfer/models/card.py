"""What a weights file says about itself: sizes, preprocessing, names of classes and action units, licence."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from streamfer.errors import CheckpointError
from streamfer.geometry import CropProfile
from streamfer.models.dfer_clip import DferClipConfig
from streamfer.models.temporal import TemporalConfig
from streamfer.models.towers import VisionConfig

FORMAT = 1
ARCHITECTURE = "dfer-clip"
Interpolation = Literal["bilinear", "bicubic", "area"]
#: No tower that CLIP's families know comes near; a larger number is a damaged or hostile file.
_LARGEST = 1 << 16
_DEEPEST = 256
#: Fields that files written before them lack; absent, they have their defaults.
_ADDED = frozenset({"block", "token"})

_Part = TypeVar("_Part", VisionConfig, TemporalConfig)


@dataclass(frozen=True, slots=True)
class PixelProfile:
    """How uint8 RGB becomes the encoder's input: scaled to [0, 1], then normalised if ``mean`` is given.

    Attributes:
        size: side of the square input, pixels.
        mean: one number a channel, or None (DFER-CLIP was trained on [0, 1] as it is).
        std: one number a channel, given exactly when ``mean`` is.
        interpolation: how a crop of another size is resized.
    """

    size: int
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise CheckpointError("pixels: mean and std belong together; give both or neither")
        if self.interpolation not in ("bilinear", "bicubic", "area"):
            raise CheckpointError(f"pixels.interpolation is {self.interpolation!r}; expected bilinear, bicubic, area")
        if self.std is not None and not min(self.std) > 0:
            raise CheckpointError(f"pixels.std is {self.std}; expected positive numbers")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything beside the tensors of a weights file.

    Attributes:
        name: what ``load_model`` calls it.
        config: sizes and class names.
        pixels: preprocessing.
        crop: geometry of the face crop.
        licence: licence of the weights in plain words.
        calibration_temperature: logits are divided by it before the softmax (1 is uncalibrated).
        action_thresholds: for each of ``config.action_units``, the intensity from which it counts as present;
            empty where nobody measured them.
        train: where the weights come from and what they are worth, plain JSON.
    """

    name: str
    config: DferClipConfig
    pixels: PixelProfile
    crop: CropProfile
    licence: str
    calibration_temperature: float = 1.0
    action_thresholds: tuple[float, ...] = ()
    train: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pixels.size != self.config.vision.image_size:
            raise CheckpointError(
                f"pixels.size is {self.pixels.size} but vision.image_size is {self.config.vision.image_size}"
            )
        if not self.calibration_temperature > 0:
            raise CheckpointError(
                f"calibration_temperature is {self.calibration_temperature}; expected a positive number"
            )
        if self.action_thresholds and len(self.action_thresholds) != len(self.config.action_units):
            raise CheckpointError(
                f"action_thresholds: {len(self.action_thresholds)} for {len(self.config.action_units)} action units; "
                "expected one each, or none"
            )
        if not all(0 < threshold < 1 for threshold in self.action_thresholds):
            raise CheckpointError(f"action_thresholds are {self.action_thresholds}; expected numbers between 0 and 1")

    def to_json(self) -> str:
        """Return the document stored under the key ``streamfer`` of a safetensors file's metadata."""
        document = {
            "format": FORMAT,
            "name": self.name,
            "architecture": ARCHITECTURE,
            "classes": list(self.config.classes),
            "embed_dim": self.config.embed_dim,
            "vision": asdict(self.config.vision),
            "quick_gelu": self.config.quick_gelu,
            "temporal": asdict(self.config.temporal),
            "temperature": self.config.temperature,
            "head": self.config.head,
            "calibration_temperature": self.calibration_temperature,
            "pixels": asdict(self.pixels),
            "crop": self.crop.to_dict(),
            "licence": self.licence,
            "train": self.train,
        }
        if self.config.action_units:
            document["action_units"] = list(self.config.action_units)
        if self.action_thresholds:
            document["action_thresholds"] = dict(zip(self.config.action_units, self.action_thresholds, strict=True))
        return json.dumps(document, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read what :meth:`to_json` wrote.

        Raises:
            CheckpointError: not JSON, another format or architecture, a field missing or out of range.
        """
        try:
            document = json.loads(text)
            _check_kind(document["format"], document["architecture"])
            config = _config(document)
            return cls(
                name=str(document["name"]),
                config=config,
                pixels=_pixels(document["pixels"]),
                crop=CropProfile.from_dict(document["crop"]),
                licence=str(document["licence"]),
                calibration_temperature=float(document.get("calibration_temperature", 1.0)),
                action_thresholds=_thresholds(document.get("action_thresholds"), config.action_units),
                train=dict(document.get("train") or {}),
            )
        except CheckpointError:
            raise
        except KeyError as error:
            raise CheckpointError(f"metadata: field {error.args[0]!r} is missing") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"metadata: {error}") from error


def _check_kind(version: Any, architecture: Any) -> None:
    if version != FORMAT:
        raise CheckpointError(f"format {version!r}; this streamfer reads {FORMAT}: upgrade or re-import")
    if architecture != ARCHITECTURE:
        raise CheckpointError(f"architecture {architecture!r}; expected {ARCHITECTURE!r}")


def _config(document: dict[str, Any]) -> DferClipConfig:
    return DferClipConfig(
        classes=tuple(str(name) for name in document["classes"]),
        embed_dim=_count("embed_dim", document["embed_dim"]),
        vision=_sizes(VisionConfig, "vision", document["vision"]),
        temporal=_sizes(TemporalConfig, "temporal", document["temporal"]),
        quick_gelu=bool(document["quick_gelu"]),
        temperature=float(document["temperature"]),
        head=document.get("head", "cosine"),
        action_units=_names("action_units", document.get("action_units")),
    )


def _names(where: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{where} is {value!r}; expected a list of names")
    return tuple(value)


def _thresholds(value: Any, units: tuple[str, ...]) -> tuple[float, ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or value.keys() != set(units):
        raise CheckpointError(f"action_thresholds is {value!r}; expected a number for each of the action units")
    return tuple(float(value[name]) for name in units)


def _pixels(document: dict[str, Any]) -> PixelProfile:
    return PixelProfile(
        size=_count("pixels.size", document["size"]),
        mean=_triple("pixels.mean", document.get("mean")),
        std=_triple("pixels.std", document.get("std")),
        interpolation=document.get("interpolation", "bilinear"),
    )


def _triple(where: str, value: Any) -> tuple[float, float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        raise CheckpointError(f"{where} is {value!r}; expected three numbers or null")
    return (float(value[0]), float(value[1]), float(value[2]))


def _count(where: str, value: Any, largest: int = _LARGEST) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise CheckpointError(f"{where} is {value!r}; expected a whole number from 1 to {largest}")
    return value


def _sizes(part: type[_Part], where: str, values: dict[str, Any]) -> _Part:
    """Read one nested configuration strictly: a field unknown or left out would change the computation unseen.

    Fields of ``_ADDED`` may be left out: their defaults compute what was computed before they existed.
    """
    known = {entry.name for entry in fields(part)}
    if unknown := sorted(values.keys() - known):
        raise CheckpointError(f"{where}.{unknown[0]} is not a field this streamfer knows; upgrade or re-import")
    if missing := sorted(known - _ADDED - values.keys()):
        raise CheckpointError(f"{where}.{missing[0]} is missing")
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name == "layers" and isinstance(value, list):
            read[name] = tuple(_count(f"{where}.layers", depth, _DEEPEST) for depth in value)
        elif name == "mlp_ratio":
            if not 0 < float(value) <= 64:
                raise CheckpointError(f"{where}.mlp_ratio is {value!r}; expected a number up to 64")
            read[name] = float(value)
        elif name in ("block", "token"):
            read[name] = value  # the configuration knows its names
        else:
            read[name] = _count(f"{where}.{name}", value, _DEEPEST if name == "layers" else _LARGEST)
    return part(**read)
