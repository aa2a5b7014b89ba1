"""CLIP's two towers, built from open_clip: sizes by configuration, names of weights as in the checkpoints.

Shape suffixes: F frames, S image side, C classes, L tokens of a prompt, W width of the text tower, D feature
size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import LayerNorm, QuickGELU, Transformer, VisionTransformer
from torch import nn

from streamfer.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Sizes of the image encoder, in the words of open_clip's ``CLIPVisionCfg``.

    Attributes:
        layers: transformer blocks of a ViT, or four stage depths of a ModifiedResNet.
        width: width of the ViT, or of the ResNet's first stage.
        head_width: width of one attention head.
        mlp_ratio: hidden size of a ViT block's MLP over its width.
        patch_size: side of a patch, pixels (ViT).
        image_size: side of the input, pixels.
    """

    layers: int | tuple[int, ...] = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: int = 32
    image_size: int = 224

    def __post_init__(self) -> None:
        depths = self.layers if isinstance(self.layers, tuple) else (self.layers,)
        if len(depths) not in (1, 4) or min(depths) < 1:
            raise CheckpointError(f"vision.layers is {self.layers!r}; expected a depth, or four stage depths")
        wide = self.width * 32 if self.is_resnet else self.width
        if wide % self.head_width:
            raise CheckpointError(f"vision.head_width {self.head_width} does not divide the width {wide}")
        step = 32 if self.is_resnet else self.patch_size
        if self.image_size < step:
            raise CheckpointError(f"vision.image_size is {self.image_size}; expected at least {step}")

    @property
    def is_resnet(self) -> bool:
        """Whether this is a convolutional tower (CLIP's ModifiedResNet)."""
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


def build_image_encoder(config: VisionConfig, embed_dim: int, *, quick_gelu: bool) -> nn.Module:
    """Return CLIP's image encoder, projection included: (F, 3, S, S) to (F, D), features not normalised.

    Args:
        config: sizes.
        embed_dim: D.
        quick_gelu: x * sigmoid(1.702 x) in the ViT's MLPs, as OpenAI trained them. Without effect on a
            ResNet.
    """
    if isinstance(config.layers, tuple):
        heads = config.width * 32 // config.head_width
        return cast(
            nn.Module,
            ModifiedResNet(
                layers=list(config.layers),
                output_dim=embed_dim,
                heads=heads,
                image_size=config.image_size,
                width=config.width,
            ),
        )
    return cast(
        nn.Module,
        VisionTransformer(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.width,
            layers=config.layers,
            heads=config.width // config.head_width,
            mlp_ratio=config.mlp_ratio,
            output_dim=embed_dim,
            act_layer=QuickGELU if quick_gelu else nn.GELU,
            norm_layer=LayerNorm,
        ),
    )


class TextTower(nn.Module):
    """CLIP's text transformer, fed with token embeddings instead of token ids (as CoOp's prompts need)."""

    def __init__(self, config: TextConfig, embed_dim: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            act_layer=QuickGELU if quick_gelu else nn.GELU,
            norm_layer=LayerNorm,
        )
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context_length, config.width))
        self.ln_final = LayerNorm(config.width)
        self.text_projection = nn.Parameter(config.width**-0.5 * torch.randn(config.width, embed_dim))

    def forward(self, prompts_CLW: torch.Tensor, eot_C: torch.Tensor) -> torch.Tensor:
        """Read prompts.

        Args:
            prompts_CLW: token embeddings, without positions.
            eot_C: int64 index of the end token in each prompt.

        Returns:
            (C, D) text features, not normalised.
        """
        length = self.config.context_length
        causal_LL = torch.full((length, length), float("-inf"), device=prompts_CLW.device).triu_(1)
        x_CLW = self.transformer(prompts_CLW + self.positional_embedding, attn_mask=causal_LL)
        rows = torch.arange(len(eot_C), device=x_CLW.device)
        return cast(torch.Tensor, self.ln_final(x_CLW)[rows, eot_C] @ self.text_projection)
