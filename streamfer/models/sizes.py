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
    """Sizes of the image encoder, in the words of open_clip's ``CLIPVisionCfg``."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    #: Blocks of a ViT, or stage depths of a convolutional network: four of CLIP's, seven of EfficientNet-Lite.
    layers: Depth | tuple[Depth, ...] = 12
    width: Count = 768  #: of the ViT, or of the convolutional network's first stage
    head_width: Count = 64  #: of one attention head; without effect on inverted residuals
    mlp_ratio: Ratio = 4.0  #: hidden size of a ViT block's MLP over its width
    patch_size: Count = 32  #: side of a patch, pixels (ViT)
    image_size: Count = 224  #: side of the input, pixels
    block: Block = "bottleneck"  #: of CLIP's ModifiedResNet; ``inverted`` of EfficientNet-Lite

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
    """Sizes of the text tower; the defaults are those of CLIP ViT-B."""

    layers: int = 12
    width: int = 512
    heads: int = 8
    context_length: int = 77  #: tokens of a prompt, start and end included
    mlp_ratio: float = 4.0  #: hidden size of a block's MLP over its width


@dataclass(frozen=True, slots=True)
class TemporalConfig:
    """Sizes of the temporal transformer; the defaults are the published ones."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    layers: Depth = 1
    heads: Count = 8
    dim_head: Count = 64  #: heads x dim_head may differ from the feature size
    mlp_dim: Count = 1024  #: hidden size of the feed-forward part
    frames: Count = 16  #: of a training window, one learned position each
    #: What is read: a ``class`` token put before the frames, the ``mean`` of all frames, or their mean ``weighted`` by
    #: how expressive each is.
    token: Token = "class"  # noqa: S105


@dataclass(frozen=True, slots=True)
class DferClipConfig:
    """Everything that fixes the shapes and the computation of a model; the defaults are the published ones."""

    classes: tuple[str, ...]  #: emotion names in the order of the logits
    embed_dim: Count = 512  #: D, the size shared by frame and text features
    vision: VisionConfig = field(default_factory=VisionConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    quick_gelu: bool = True  #: OpenAI's activation in the ViT and in the text tower
    temperature: float = PUBLISHED_TEMPERATURE  #: cosines are divided by it
    #: ``cosine`` compares directions with the class features; ``linear`` is a linear layer of which ``text_features``
    #: are the weights (the paper's ablation), without temperature.
    head: Head = "cosine"
    action_units: tuple[str, ...] = ()  #: names in the order of the intensities, such as ``AU06``

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
