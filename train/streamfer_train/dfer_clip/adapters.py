"""Additions to a frozen image encoder: temporal adapters after S2D, and low-rank updates (LoRA).

Shape suffixes: F frames (B windows of T), L places of a picture, W width of the encoder, R width of an adapter.
"""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.config import AdapterConfig, LoraConfig

_Model = TypeVar("_Model", bound=nn.Module)


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


class LowRank(nn.Module):
    """A weight plus an update of rank R: alpha / R times B A, where B starts at zero.

    A parametrization, because the projections of attention are one tensor that no layer of a library updates in place.
    Source: LoRA (Hu et al., arXiv 2106.09685, section 4.1).
    """

    def __init__(self, weight_OI: torch.Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.lora_A = nn.Parameter(torch.empty(rank, weight_OI.shape[1]))
        self.lora_B = nn.Parameter(torch.zeros(weight_OI.shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """Return the updated weight, (O, I)."""
        return weight_OI + self.scale * (self.lora_B @ self.lora_A)


def attach_lora(encoder: nn.Module, config: LoraConfig) -> None:
    """Put low-rank updates into the encoder's layers, in place; a ConfigError where a target names none of them."""
    for target in config.targets:
        found = [module for name, module in encoder.named_modules() if name.rpartition(".")[2] == target]
        layers: list[tuple[nn.Module, str]] = [
            pair
            for module in found
            for pair in (
                [(module, "in_proj_weight"), (module.out_proj, "weight")]
                if isinstance(module, nn.MultiheadAttention)
                else [(module, "weight")]
            )
        ]
        if not layers:
            raise ConfigError(f"lora.targets: {target}: no such layer in this encoder; low-rank updates need a ViT")
        for layer, name in layers:
            update = LowRank(getattr(layer, name), config.rank, config.alpha)
            parametrize.register_parametrization(layer, name, update)


def merged(model: _Model) -> _Model:
    """Return a copy of a model with the updates added to its weights: names and shapes as without them."""
    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        if parametrize.is_parametrized(module):
            for name in list(cast(Any, module).parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return copied
