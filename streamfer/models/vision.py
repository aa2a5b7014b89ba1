"""CLIP's vision transformer: names and initial weights of open_clip's, with the class token alone in the last block.

Shape suffixes: F frames, S image side, G patches a side, N tokens (G x G patches and the class token), W width,
D feature size.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from streamfer.models.attention import Implementation, attend_first, attend_packed
from streamfer.models.sizes import VisionConfig

#: Of the sigmoid in OpenAI's activation, x sigmoid(1.702 x).
QUICK = 1.702


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose result has its input's dtype under autocast, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).to(x.dtype)


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), which OpenAI trained its towers with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(QUICK * x)


class SelfAttention(nn.MultiheadAttention):
    """Self-attention without a mask, which reads the packed projection in place; (F, N, W) to the same.

    Parameters and their first values are those of nn.MultiheadAttention.
    """

    implementation: Implementation = "torch"

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, batch_first=True)

    def forward(self, x_FNW: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        packed = F.linear(x_FNW, self.in_proj_weight, self.in_proj_bias)
        return cast(torch.Tensor, self.out_proj(attend_packed(packed, self.num_heads, self.implementation)))

    def first(self, x_FNW: torch.Tensor) -> torch.Tensor:
        """Mix all tokens into the first one alone; (F, N, W) to (F, 1, W), what ``forward(x)[:, :1]`` gives."""
        mixed_FW = attend_first(x_FNW, self.in_proj_weight, self.num_heads, self.in_proj_bias)
        return cast(torch.Tensor, self.out_proj(mixed_FW))[:, None]


class Block(nn.Module):
    """A pre-norm block of attention and MLP."""

    def __init__(self, width: int, heads: int, hidden: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = LayerNorm(width)
        activation = QuickGelu() if quick_gelu else nn.GELU()
        layers = [("c_fc", nn.Linear(width, hidden)), ("gelu", activation), ("c_proj", nn.Linear(hidden, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x_FNW: torch.Tensor, first: bool = False) -> torch.Tensor:
        """Transform tokens, or ``first`` of them alone: (F, N, W) to the same, or to (F, 1, W)."""
        normed_FNW = self.ln_1(x_FNW)
        x_FNW = x_FNW[:, :1] + self.attn.first(normed_FNW) if first else x_FNW + self.attn(normed_FNW)
        return x_FNW + cast(torch.Tensor, self.mlp(self.ln_2(x_FNW)))


class Blocks(nn.Module):
    """The stack of blocks; in the last one nobody reads the patches, so they are mixed and not transformed."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.resblocks = nn.ModuleList(Block(width, heads, hidden, quick_gelu=quick_gelu) for _ in range(layers))

    def forward(self, x_FNW: torch.Tensor) -> torch.Tensor:
        """Run all blocks for the class token's sake; (F, N, W) to (F, W)."""
        last = len(self.resblocks) - 1
        for place, block in enumerate(self.resblocks):
            if self.grad_checkpointing:
                from torch.utils.checkpoint import checkpoint

                x_FNW = cast(torch.Tensor, checkpoint(block, x_FNW, place == last, use_reentrant=False))
            else:
                x_FNW = block(x_FNW, place == last)
        return x_FNW[:, 0]


class VisionTransformer(nn.Module):
    """Pictures to features; (F, 3, S, S) to (F, D), not normalised (Radford et al., arXiv 2103.00020, section 2.4)."""

    def __init__(self, config: VisionConfig, embed_dim: int, *, quick_gelu: bool) -> None:
        """Build with random weights; ``config.layers`` is a depth."""
        super().__init__()
        width = config.width
        places = (config.image_size // config.patch_size) ** 2 + 1
        self.conv1 = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(places, width))
        self.ln_pre = LayerNorm(width)
        hidden, heads = int(width * config.mlp_ratio), width // config.head_width
        self.transformer = Blocks(cast(int, config.layers), width, heads, hidden, quick_gelu=quick_gelu)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))

    def forward(self, pixels_F3SS: torch.Tensor) -> torch.Tensor:
        patches_FGW = self.conv1(pixels_F3SS).flatten(2).transpose(1, 2)
        token_F1W = self.class_embedding.to(patches_FGW.dtype).expand(len(patches_FGW), 1, -1)
        x_FNW = torch.cat([token_F1W, patches_FGW], dim=1) + self.positional_embedding.to(patches_FGW.dtype)
        features_FE: torch.Tensor = self.ln_post(self.transformer(self.ln_pre(x_FNW))) @ self.proj
        return features_FE


def fold_activations(tower: nn.Module) -> None:
    """Turn every QuickGELU into SiLU, one pass instead of three, in place, for inference.

    x sigmoid(1.702 x) = silu(1.702 x) / 1.702: the factors go into the layers around it, exact but for rounding.
    """
    for block in tower.modules():
        if isinstance(block, Block) and isinstance(block.mlp.gelu, QuickGelu):
            inside, outside = cast(nn.Linear, block.mlp.c_fc), cast(nn.Linear, block.mlp.c_proj)
            inside.weight.data.mul_(QUICK)
            inside.bias.data.mul_(QUICK)
            outside.weight.data.div_(QUICK)
            block.mlp.gelu = nn.SiLU(inplace=True)
