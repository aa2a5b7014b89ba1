"""What a weights file says about itself: sizes, preprocessing, names of classes and action units, licence.

Imports no torch: the models here can be listed, and told by their digests, before anything heavy is loaded.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from streamfer.errors import CheckpointError
from streamfer.geometry import CropProfile
from streamfer.models.expression import Abstention
from streamfer.models.sizes import Count, DferClipConfig, TemporalConfig, VisionConfig

METADATA_KEY = "streamfer"
SUFFIX = ".safetensors"
FORMAT = 1
ARCHITECTURE = "dfer-clip"
Interpolation = Literal["bilinear", "bicubic", "area"]
#: Fields that files written before them lack; absent, they have their defaults, which compute what was computed then.
_ADDED = frozenset({"block", "token", "head", "action_units"})


@dataclass(frozen=True, slots=True)
class PixelProfile:
    """How uint8 RGB becomes the encoder's input: scaled to [0, 1], then normalised if ``mean`` is given."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    size: Count  #: side of the square input, pixels
    #: One number a channel, both or neither (DFER-CLIP was trained on [0, 1] as it is).
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Interpolation = "bilinear"  #: how a crop of another size is resized

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise CheckpointError("pixels: mean and std belong together; give both or neither")
        if self.std is not None and not min(self.std) > 0:
            raise CheckpointError(f"pixels.std is {self.std}; expected positive numbers")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything beside the tensors of a weights file."""

    name: str  #: what ``load_model`` calls it
    config: DferClipConfig
    pixels: PixelProfile
    crop: CropProfile
    licence: str  #: of the weights, in plain words
    calibration_temperature: float = 1.0  #: logits are divided by it before the softmax (1 is uncalibrated)
    #: For each of ``config.action_units``, the intensity from which it counts as present; empty where none is known.
    action_thresholds: tuple[float, ...] = ()
    abstention: Abstention = field(default_factory=Abstention)
    train: dict[str, Any] = field(default_factory=dict)  #: where the weights come from, what they are worth; plain JSON

    def __post_init__(self) -> None:
        size, temperature = self.config.vision.image_size, self.calibration_temperature
        if self.pixels.size != size:
            raise CheckpointError(f"pixels.size is {self.pixels.size} but vision.image_size is {size}")
        if not temperature > 0:
            raise CheckpointError(f"calibration_temperature is {temperature}; expected a positive number")
        if self.action_thresholds and len(self.action_thresholds) != len(self.config.action_units):
            raise CheckpointError(
                f"action_thresholds: {len(self.action_thresholds)} for {len(self.config.action_units)} action units; "
                "expected one each, or none"
            )
        if not all(0 < threshold < 1 for threshold in self.action_thresholds):
            raise CheckpointError(f"action_thresholds are {self.action_thresholds}; expected numbers between 0 and 1")

    def to_json(self) -> str:
        """Return the document stored under the key ``streamfer`` of a safetensors file's metadata."""
        document = asdict(self)
        # The model's sizes have stood beside the rest from the first file on.
        document |= document.pop("config")
        document["action_thresholds"] = dict(zip(self.config.action_units, self.action_thresholds, strict=False))
        document["abstention"] = {name: limit for name, limit in document["abstention"].items() if limit is not None}
        for name in ("action_units", "action_thresholds", "abstention"):
            if not document[name]:
                del document[name]
        document |= {"format": FORMAT, "architecture": ARCHITECTURE}
        return json.dumps(document, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read what :meth:`to_json` wrote; a CheckpointError: no JSON, another format, a field that is wrong."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"metadata: not JSON ({error})") from error
        if not isinstance(document, dict):
            raise CheckpointError(f"metadata: holds a {type(document).__name__}; expected fields and their values")
        version, architecture = document.get("format"), document.get("architecture")
        if version != FORMAT:
            raise CheckpointError(f"format {version!r}; this streamfer reads {FORMAT}: upgrade or re-import")
        if architecture != ARCHITECTURE:
            raise CheckpointError(f"architecture {architecture!r}; expected {ARCHITECTURE!r}")
        _check_complete("", DferClipConfig, document)
        _check_complete("vision.", VisionConfig, document["vision"])
        _check_complete("temporal.", TemporalConfig, document["temporal"])
        try:
            config = _CONFIG.validate_python(_fields(DferClipConfig, document))
            values = _fields(ModelCard, document) | {"config": config}
            if "action_thresholds" in document:
                values["action_thresholds"] = _thresholds(document["action_thresholds"], config.action_units)
            return _CARD.validate_python(values)
        except ValidationError as error:
            raise CheckpointError(f"metadata: {explain(error)}") from None


_CONFIG = TypeAdapter(DferClipConfig)
_CARD = TypeAdapter(ModelCard)


def explain(error: ValidationError) -> str:
    """Return the first fault of a card in one line that names the field, what it holds and what it should hold."""
    first = error.errors()[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, CheckpointError):
        return str(own)
    # pydantic puts the alternatives of a union ("constrained-int", "tuple[...]") into the path.
    name = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())
    if first["type"] == "missing":
        return f"field {name!r} is missing"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{name} is not a field this streamfer knows; upgrade or re-import"
    wanted = first["msg"].removeprefix("Input should be ").replace("a valid tuple", "a list")
    return f"{name} is {reprlib.repr(first['input'])}; expected {wanted}"


def _check_complete(prefix: str, part: type[Any], values: Any) -> None:
    """Refuse a part that leaves a field out: its default would change the computation unseen."""
    if isinstance(values, Mapping):
        for entry in fields(part):
            if entry.name not in values and entry.name not in _ADDED:
                raise CheckpointError(f"metadata: field {prefix + entry.name!r} is missing")


def _fields(part: type[Any], document: Mapping[str, Any]) -> dict[str, Any]:
    return {entry.name: document[entry.name] for entry in fields(part) if entry.name in document}


def _thresholds(value: Any, units: tuple[str, ...]) -> list[Any]:
    if not isinstance(value, dict) or value.keys() != set(units):
        raise CheckpointError(f"action_thresholds is {value!r}; expected a number for each of the action units")
    return [value[name] for name in units]


def read_card(path: Path) -> ModelCard:
    """Read only the card of a weights file; a CheckpointError where it is none of streamfer's, or damaged."""
    try:
        with safe_open(path, framework="numpy") as stream:
            metadata = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); get it again") from error
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file without streamfer's metadata; import it with "
            f"'streamfer models import {path} --name NAME'"
        )
    try:
        return ModelCard.from_json(metadata[METADATA_KEY])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
