"""Exp-BLIP and Exp-VQA as transformers' BLIP-2 and InstructBLIP, at any size.

Both are an EVA-CLIP image encoder, a Q-Former that reads it with a few learned queries, a linear projection and a
frozen language model. In InstructBLIP the Q-Former reads the question as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, PositiveInt

from streamfer.captions.card import Architecture
from streamfer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

#: torch's default, with which LAVIS made ``ln_vision``; transformers' classes have 1e-6 there.
LAVIS_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class QuerySizes:
    """Sizes of everything but the language model; the defaults are the published ones, EVA ViT-G's among them."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    #: Sides of the square input and of a patch, pixels: 16 x 16 patches and 257 positions.
    image: PositiveInt = 224
    patch: PositiveInt = 14
    vision_width: PositiveInt = 1408
    vision_layers: PositiveInt = 39
    vision_heads: PositiveInt = 16
    vision_mlp: PositiveInt = 6144
    #: Learned queries, and so tokens that the language model gets from each picture.
    queries: PositiveInt = 32
    qformer_width: PositiveInt = 768
    qformer_layers: PositiveInt = 12
    qformer_heads: PositiveInt = 12
    qformer_mlp: PositiveInt = 3072
    #: Every so many layers, from the first on, look at the picture.
    cross_every: PositiveInt = 2
    #: Words (BERT's 30522 and ``[DEC]``) and longest text of the Q-Former of InstructBLIP.
    vocabulary: PositiveInt = 30523
    positions: PositiveInt = 512

    def __post_init__(self) -> None:
        for part, width, heads in (
            ("vision", self.vision_width, self.vision_heads),
            ("qformer", self.qformer_width, self.qformer_heads),
        ):
            if heads < 1 or width % heads:
                raise ConfigError(f"{part}_heads is {heads}; expected a divisor of {part}_width, {width}")
        if self.image % self.patch:
            raise ConfigError(f"image is {self.image}; expected a multiple of patch, {self.patch}")


def tower_configs(sizes: QuerySizes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what transformers has to know of the image encoder, and of the Q-Former."""
    vision = {
        "hidden_size": sizes.vision_width,
        "intermediate_size": sizes.vision_mlp,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision_heads,
        "image_size": sizes.image,
        "patch_size": sizes.patch,
        # transformers' own 1e-10 gives every picture the same, empty features.
        "initializer_range": 0.02,
    }
    qformer = {
        "hidden_size": sizes.qformer_width,
        "intermediate_size": sizes.qformer_mlp,
        "num_hidden_layers": sizes.qformer_layers,
        "num_attention_heads": sizes.qformer_heads,
        "cross_attention_frequency": sizes.cross_every,
        "encoder_hidden_size": sizes.vision_width,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": sizes.positions,
    }
    return vision, qformer


def build_model(architecture: Architecture, sizes: QuerySizes, text: PreTrainedConfig) -> PreTrainedModel:
    """Return a model with fresh weights: the start of a training, or (on the meta device) a shape to be filled."""
    import torch

    vision, qformer = tower_configs(sizes)
    kind = model_class(architecture)
    config = kind.config_class(
        vision_config=vision, qformer_config=qformer, text_config=text.to_dict(), num_query_tokens=sizes.queries
    )
    model: Any = kind(config)
    model.vision_model.post_layernorm.eps = LAVIS_NORM_EPS
    # As LAVIS draws them; transformers leaves them zero, from which they cannot learn to differ.
    torch.nn.init.normal_(model.query_tokens, std=0.02)
    built: PreTrainedModel = model
    return built


def model_class(architecture: Architecture) -> Any:
    import transformers

    if architecture == "blip-2":
        return transformers.Blip2ForConditionalGeneration
    return transformers.InstructBlipForConditionalGeneration
