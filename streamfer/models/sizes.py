"""Everything that fixes the shapes and the computation of a model, as its weights file states it; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from streamfer.errors import CheckpointError

Block = Literal["bottleneck", "inverted"]
Token = Literal["class", "mean", "weighted"]
Head = Literal["cosine", "linear"]
#: Stage depths that each kind of block has.
_STAGES: dict[str, int] = {"bottleneck": 4, "inverted": 7}
#: Sizes that a weights file may state. No tower that CLIP's families know comes near; more is damaged or hostile.
Count = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
Depth = Annotated[int, Field(strict=True, ge=1, le=256)]
Ratio = Annotated[float, Field(gt=0, le=64)]
#: The temperature that the authors divide cosines by; CLIP's own logit scale is not used.
PUBLISHED_TEMPERATURE = 0.01
_ACTION_UNIT = re.compile(r"AU[0-9]{2}")


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Sizes of the image encoder, in the words of open_clip's ``CLIPVisionCfg``.

    Attributes:
        layers: transformer blocks of a ViT, or stage depths of a convolutional network: four of CLIP's, seven of
            EfficientNet-Lite.
        width: width of the ViT, or of the convolutional network's first stage.
        head_width: width of one attention head; without effect on inverted residuals.
        mlp_ratio: hidden size of a ViT block's MLP over its width.
        patch_size: side of a patch, pixels (ViT).
        image_size: side of the input, pixels.
        block: of a convolutional network: ``bottleneck`` is CLIP's ModifiedResNet, ``inverted`` EfficientNet-Lite.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    layers: Depth | tuple[Depth, ...] = 12
    width: Count = 768
    head_width: Count = 64
    mlp_ratio: Ratio = 4.0
    patch_size: Count = 32
    image_size: Count = 224
    block: Block = "bottleneck"

    def __post_init__(self) -> None:
        stages = _STAGES[self.block]
        depths = self.layers if isinstance(self.layers, tuple) else (self.layers,)
        plain = self.block == "bottleneck" and not self.is_resnet
        if len(depths) != (1 if plain else stages) or min(depths) < 1:
            choice = "a depth, or " if self.block == "bottleneck" else ""
            raise CheckpointError(f"vision.layers is {self.layers!r}; expected {choice}{stages} stage depths")
        if self.block != "inverted":
            wide = self.width * 32 if self.is_resnet else self.width
            if wide % self.head_width:
                raise CheckpointError(f"vision.head_width {self.head_width} does not divide the width {wide}")
        smallest = 32 if self.is_resnet else self.patch_size
        if self.image_size < smallest:
            raise CheckpointError(f"vision.image_size is {self.image_size}; expected at least {smallest}")

    @property
    def is_resnet(self) -> bool:
        """Whether this is a convolutional tower, of either kind of block."""
        return isinstance(self.layers, tuple)


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Sizes of the text tower; the defaults are those of CLIP ViT-B.

    Attributes:
        layers: transformer blocks.
        width: width of a token.
        heads: attention heads.
        context_length: tokens of a prompt, start and end included.
        mlp_ratio: hidden size of a block's MLP over its width.
    """

    layers: int = 12
    width: int = 512
    heads: int = 8
    context_length: int = 77
    mlp_ratio: float = 4.0


@dataclass(frozen=True, slots=True)
class TemporalConfig:
    """Sizes of the temporal transformer; the defaults are the published ones.

    Attributes:
        layers: pre-norm blocks.
        heads: attention heads.
        dim_head: size of one head; heads x dim_head may differ from the feature size.
        mlp_dim: hidden size of the feed-forward part.
        frames: frames of a training window, one learned position each.
        token: what is read: a ``class`` token put before the frames, the ``mean`` of all frames,
            or their mean ``weighted`` by how expressive each is.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    layers: Depth = 1
    heads: Count = 8
    dim_head: Count = 64
    mlp_dim: Count = 1024
    frames: Count = 16
    token: Token = "class"  # noqa: S105


@dataclass(frozen=True, slots=True)
class DferClipConfig:
    """Everything that fixes the shapes and the computation of a model; the defaults are the published ones.

    Attributes:
        classes: emotion names in the order of the logits.
        embed_dim: D, the size shared by frame and text features.
        vision: image encoder.
        temporal: temporal transformer.
        quick_gelu: OpenAI's activation in the ViT and in the text tower.
        temperature: cosines are divided by it.
        head: ``cosine`` compares directions with the class features; ``linear`` is a linear layer of which
            ``text_features`` are the weights (the paper's ablation), without temperature.
        action_units: names in the order of the intensities, such as ``AU06``; none without an action head.
    """

    classes: tuple[str, ...]
    embed_dim: Count = 512
    vision: VisionConfig = field(default_factory=VisionConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    quick_gelu: bool = True
    temperature: float = PUBLISHED_TEMPERATURE
    head: Head = "cosine"
    action_units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise CheckpointError(f"classes are {list(self.classes)}; expected two or more different names")
        if not self.temperature > 0:
            raise CheckpointError(f"temperature is {self.temperature}; expected a positive number")
        for name in self.action_units:
            if not _ACTION_UNIT.fullmatch(name):
                raise CheckpointError(f"action_units has {name!r}; expected AU and two digits, such as AU06")
        if len(set(self.action_units)) != len(self.action_units):
            raise CheckpointError(f"action_units are {list(self.action_units)}; expected different names")
