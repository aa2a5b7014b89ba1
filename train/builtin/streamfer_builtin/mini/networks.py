"""The mini model's networks while they train: a grey tower and the heads on its features.

Names of weights: `image_encoder.*` (timm's names), `expression.*` (the picture head, which teaches and is not shipped)
and `action_head.*`.

Shape suffixes: B pictures, D feature size, C classes, A action units.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from streamfer.models.efficient import EfficientNetLite, InvertedResidual
from streamfer.models.sizes import DferClipConfig, TemporalConfig, TextConfig, VisionConfig
from streamfer_builtin.mini.data import CLASSES
from streamfer_builtin.mini.recipe import Sizes
from streamfer_builtin.render.actions import ACTION_UNITS

FRAMES = 16
"""Frames of a window."""
FIRST_CONVOLUTION = "image_encoder.conv_stem.weight"
MIDDLE, REACH = 0.5, 0.5
"""Pictures in [0, 1] are brought to [-1, 1], what the pretrained tower has seen."""


def shipped_config(sizes: Sizes, temperature: float = 1.0) -> DferClipConfig:
    """Return the configuration of the shipped model."""
    return DferClipConfig(
        classes=CLASSES,
        embed_dim=sizes.embed_dim,
        vision=VisionConfig(layers=sizes.layers, width=sizes.width, image_size=sizes.image, block="inverted"),
        temporal=TemporalConfig(
            layers=1, heads=sizes.heads, dim_head=sizes.dim_head, mlp_dim=sizes.mlp_dim, frames=FRAMES
        ),
        quick_gelu=False,
        temperature=temperature,
        action_units=ACTION_UNITS,
    )


def text_config(sizes: Sizes) -> TextConfig:
    """Return the sizes of the text tower, which is not shipped."""
    return TextConfig(
        layers=sizes.text_layers,
        width=sizes.text_width,
        heads=sizes.text_heads,
        context_length=sizes.context_length,
    )


class JointModel(nn.Module):
    """Stage `joint`: emotions and action units of single pictures, photographed or rendered."""

    def __init__(self, sizes: Sizes, *, bf16: bool = False, dropout: float = 0.0, drop_path: float = 0.0) -> None:
        """Build with random weights.

        With `bf16` the tower computes in bfloat16 while it trains: faster on GPUs, and where the processor has matrix
        tiles. `drop_path` is that of the last block; the others' fall in proportion to their place.
        """
        super().__init__()
        tower = EfficientNetLite(sizes.layers, sizes.width, sizes.embed_dim, channels=1)
        blocks = [module for module in tower.modules() if isinstance(module, InvertedResidual)]
        for place, block in enumerate(blocks, 1):
            block.drop = drop_path * place / len(blocks)
        self.image_encoder = tower.to(memory_format=torch.channels_last)
        self.dropout = nn.Dropout(dropout)
        self.expression = nn.Linear(sizes.embed_dim, len(CLASSES))
        self.action_head = nn.Linear(sizes.embed_dim, len(ACTION_UNITS))
        self.image = sizes.image
        self.bf16 = bf16

    def encode(self, images: Tensor) -> Tensor:
        """Map grey float32 (B, 1, H, H) in [0, 1] to features float32 (B, D)."""
        pixels = ((images - MIDDLE) / REACH).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16 and self.training):
            features = self.image_encoder(pixels)
        return cast(Tensor, features.float())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map grey float32 (B, 1, H, H) to logits of emotions (B, C) and of action units (B, A)."""
        features = self.dropout(self.encode(images))
        return self.expression(features), self.action_head(features)
