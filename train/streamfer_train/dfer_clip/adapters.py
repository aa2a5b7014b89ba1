"""Additions to a frozen image encoder: temporal adapters after S2D, and low-rank updates by peft.

Shape suffixes: F frames (B windows of T), L places of a picture, W width of the encoder, R width of an adapter.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.config import AdapterConfig, LoraConfig


class TemporalAdapter(nn.Module):
    """A bottleneck that lets each place of a picture see itself in the window's other frames.

    Down to R, attention over T frames at each place, GELU, up to W, added to the input. The last layer starts at
    zero, so the encoder starts as it was pretrained.

    Source: the idea of temporal-modelling adapters in frozen blocks is S2D's (Chen et al., arXiv 2312.05447,
    section 3.3); layout and initialisation are ours.
    """

    def __init__(self, width: int, bottleneck: int, heads: int, frames: int) -> None:
        super().__init__()
        if bottleneck % heads:
            raise ConfigError(f"adapters.heads {heads} does not divide adapters.width {bottleneck}")
        self.heads, self.frames = heads, frames
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, bottleneck)
        self.mix = nn.Linear(bottleneck, 3 * bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.position = nn.Parameter(0.02 * torch.randn(frames, bottleneck))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x_FLW: torch.Tensor) -> torch.Tensor:
        """Mix frames; (F, L, W) to (F, L, W), F a multiple of the window's frames."""
        small_FLR = self.down(self.norm(x_FLW))
        windows = small_FLR.unflatten(0, (-1, self.frames)).transpose(1, 2)  # (B, L, T, R)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for part in self.mix(windows + self.position).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2)
        joined_FLR = small_FLR + mixed.transpose(1, 2).flatten(0, 1)
        return x_FLW + cast(torch.Tensor, self.up(F.gelu(joined_FLR)))


def attach_adapters(encoder: nn.Module, config: AdapterConfig, frames: int) -> nn.ModuleList:
    """Return adapters that run after each of the encoder's last blocks; the encoder's own names do not change.

    Raises:
        ConfigError: the encoder is no ViT, or the sizes do not fit.
    """
    blocks = getattr(getattr(encoder, "transformer", None), "resblocks", None)
    if blocks is None:
        raise ConfigError("adapters.width: temporal adapters need a ViT; this image encoder has no transformer blocks")
    chosen = list(blocks)[-(config.last or len(blocks)) :]
    width = int(cast(Any, encoder).conv1.out_channels)
    adapters = nn.ModuleList(TemporalAdapter(width, config.width, config.heads, frames) for _ in chosen)
    for block, adapter in zip(chosen, adapters, strict=True):
        block.register_forward_hook(lambda _block, _args, out, adapter=adapter: adapter(out))
    return adapters


def attach_lora(encoder: nn.Module, config: LoraConfig) -> Any:
    """Put low-rank updates into the encoder's layers, in place, and return peft's handle on them.

    Raises:
        ConfigError: peft is not installed, or none of the target layers exists.
    """
    try:
        from peft import LoraConfig as PeftConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise ConfigError("lora.rank needs peft: pip install 'streamfer[train]'") from error
    asked = PeftConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    try:
        return LoraModel(encoder, asked, "default")
    except ValueError as error:
        raise ConfigError(f"lora.targets: {', '.join(config.targets)}: none is a layer of this encoder") from error


def merged(handle: Any) -> nn.Module:
    """Return a copy of the encoder with the updates added to its weights: names and shapes as without them."""
    return cast(nn.Module, copy.deepcopy(handle).merge_and_unload())
