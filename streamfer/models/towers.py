"""CLIP's two towers: sizes by configuration, names of weights as in the checkpoints.

Three image encoders: CLIP's ViT and open_clip's ModifiedResNet, as OpenAI trained them, and EfficientNet-Lite for small
faces. open_clip, which brings torchvision and transformers, is imported where a tower of its is built.

Shape suffixes: F frames, S image side, C classes, L tokens of a prompt, W width of the text tower, D feature size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from streamfer.models.efficient import EfficientNetLite
from streamfer.models.sizes import TextConfig, VisionConfig
from streamfer.models.vision import VisionTransformer


def build_image_encoder(config: VisionConfig, embed_dim: int, *, quick_gelu: bool) -> nn.Module:
    """Return the image encoder, projection included: (F, 3, S, S) to (F, D), features not normalised.

    QuickGELU, x * sigmoid(1.702 x) in the ViT's MLPs as OpenAI trained them, is without effect on a convolutional one.
    """
    if isinstance(config.layers, tuple):
        if config.block == "inverted":
            return EfficientNetLite(config.layers, config.width, embed_dim)
        from open_clip.modified_resnet import ModifiedResNet

        heads, shape = config.width * 32 // config.head_width, {"width": config.width, "image_size": config.image_size}
        return cast(nn.Module, ModifiedResNet(layers=list(config.layers), output_dim=embed_dim, heads=heads, **shape))
    return VisionTransformer(config, embed_dim, quick_gelu=quick_gelu)


class TextTower(nn.Module):
    """CLIP's text transformer, fed with token embeddings instead of token ids (as CoOp's prompts need)."""

    def __init__(self, config: TextConfig, embed_dim: int, *, quick_gelu: bool) -> None:
        from open_clip.transformer import LayerNorm, QuickGELU, Transformer

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
        """Read prompts, token embeddings without positions, up to each one's end token: (C, D), not normalised."""
        length = self.config.context_length
        causal_LL = torch.full((length, length), float("-inf"), device=prompts_CLW.device).triu_(1)
        x_CLW = self.transformer(prompts_CLW + self.positional_embedding, attn_mask=causal_LL)
        rows = torch.arange(len(eot_C), device=x_CLW.device)
        return cast(torch.Tensor, self.ln_final(x_CLW)[rows, eot_C] @ self.text_projection)
