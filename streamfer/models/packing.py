"""Image encoders on a CPU: weights laid out once as oneDNN multiplies them, what follows a product in it.

PyTorch lays the weights of a layer out anew in each call, and adds the bias, activates and adds the residual in
passes of their own. Its compiler calls the operators used here; compiling takes longer than most videos do.

Shape suffixes: F frames, S image side, G patches a side, P pixels a patch side, N tokens, W width, D feature size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from streamfer.models.attention import attend_packed
from streamfer.models.card import PixelProfile
from streamfer.models.efficient import EfficientNetLite, InvertedResidual, SeparableBlock
from streamfer.models.vision import Block, VisionTransformer

#: Rows of the products that weights are laid out for: eight pictures of 50 tokens.
_ROWS = 400
#: Pictures that convolutions are laid out for.
_PICTURES = 32


class _Packed:
    """A linear layer; ``after`` names what is done to its result: ``none`` or ``swish`` (SiLU)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype, after: str = "none") -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous(), _ROWS)
        self._bias, self._after = bias.detach().to(dtype), after

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product = torch.ops.mkldnn._linear_pointwise.default
        return cast(torch.Tensor, product(x, self._weight, self._bias, self._after, [], ""))

    def plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        product = torch.ops.mkldnn._linear_pointwise.binary
        return cast(torch.Tensor, product(x, residual, self._weight, self._bias, "add"))


class PackedTransformer:
    """Pictures to features with the weights of a tower whose activations were folded, exact to rounding.

    The pixels' normalisation is folded into the patches' projection, so bf16 sees the very pixels.
    """

    def __init__(self, tower: VisionTransformer, profile: PixelProfile, dtype: torch.dtype) -> None:
        """Take over the weights of a folded tower, which keeps none of the layers that are packed."""
        kernel_W3PP = tower.conv1.weight.detach().float()
        mean = torch.tensor(profile.mean or (0.0,) * 3)[:, None, None]
        std = torch.tensor(profile.std or (1.0,) * 3)[:, None, None]
        bias_W = -(kernel_W3PP * (mean / std)).sum((1, 2, 3))
        rows = (kernel_W3PP / (255 * std)).permute(0, 2, 3, 1).flatten(1)
        self._patches = _Packed(rows, bias_W, dtype)
        self._tower, self._dtype, self._side = tower, dtype, kernel_W3PP.shape[-1]
        *blocks, self._last = cast(list[Block], list(tower.transformer.resblocks))
        self._blocks = [(block.ln_1, block.ln_2, block.attn.num_heads, *_layers(block, dtype)) for block in blocks]
        for block in blocks:
            del block.attn, block.mlp

    def __call__(self, pictures_FSS3: torch.Tensor) -> torch.Tensor:
        """Encode RGB pictures of the tower's own size, 0 to 255, uint8 or float: (F, S, S, 3) to (F, D)."""
        frames, grid, side = len(pictures_FSS3), pictures_FSS3.shape[1] // self._side, self._side
        patches = pictures_FSS3.reshape(frames, grid, side, grid, side, 3).transpose(2, 3).to(self._dtype)
        tower = self._tower
        x_FNW = self._patches(patches.reshape(frames, grid * grid, -1))
        x_FNW = torch.cat([tower.class_embedding.expand(frames, 1, -1), x_FNW], dim=1) + tower.positional_embedding
        x_FNW = tower.ln_pre(x_FNW)
        for ln_1, ln_2, heads, project, mix, widen, narrow in self._blocks:
            x_FNW = mix.plus(attend_packed(project(ln_1(x_FNW)), heads), x_FNW)
            x_FNW = narrow.plus(widen(ln_2(x_FNW)), x_FNW)
        features_FD: torch.Tensor = tower.ln_post(self._last(x_FNW, True)[:, 0]) @ tower.proj
        return features_FD


def _layers(block: Block, dtype: torch.dtype) -> tuple[_Packed, _Packed, _Packed, _Packed]:
    """Return the four products of a block: queries, keys and values; mixing; and the two of the MLP."""
    attention, inside, outside = block.attn, cast(nn.Linear, block.mlp.c_fc), cast(nn.Linear, block.mlp.c_proj)
    return (
        _Packed(cast(torch.Tensor, attention.in_proj_weight), cast(torch.Tensor, attention.in_proj_bias), dtype),
        _Packed(attention.out_proj.weight, attention.out_proj.bias, dtype),
        _Packed(inside.weight, inside.bias, dtype, "swish"),
        _Packed(outside.weight, outside.bias, dtype),
    )


def packed_transformer(
    tower: nn.Module, profile: PixelProfile, dtype: torch.dtype, device: torch.device
) -> PackedTransformer | None:
    """Pack a tower, or return None where it is no transformer with QuickGELU or PyTorch lacks the operators."""
    if not _runs(("_linear_pointwise", "_reorder_linear_weight"), device):
        return None
    if not isinstance(tower, VisionTransformer) or profile.size % tower.conv1.kernel_size[0]:
        return None
    blocks = cast(list[Block], list(tower.transformer.resblocks))
    folded = all(isinstance(block.mlp.gelu, nn.SiLU) for block in blocks)
    return PackedTransformer(tower, profile, dtype) if folded else None


class _PackedConvolution(nn.Module):
    """A convolution of square pictures whose sides are near ``side``; ``bounded``: its result is kept from 0 to 6."""

    def __init__(self, layer: nn.Conv2d, side: int, *, bounded: bool) -> None:
        super().__init__()
        self._form = layer.padding, layer.stride, layer.dilation, layer.groups
        weight = layer.weight.detach().to(memory_format=torch.channels_last)
        size = [_PICTURES, layer.in_channels, side, side]
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._form, size)
        self._bias = None if layer.bias is None else layer.bias.detach()
        self._after: tuple[str, list[float], str] = ("hardtanh", [0.0, 6.0], "") if bounded else ("none", [], "")

    def forward(self, x_FCSS: torch.Tensor) -> torch.Tensor:
        """Convolve; (F, C, S, S) to (F, C', S', S')."""
        product = torch.ops.mkldnn._convolution_pointwise.default
        return cast(torch.Tensor, product(x_FCSS, self._weight, self._bias, *self._form, *self._after))


def pack_convolutions(tower: nn.Module, side: int, device: torch.device) -> None:
    """Pack an EfficientNet in its final dtype whose norms are folded, in place; leave any other tower as it is.

    In bf16 the features keep every bit: a bound at 0 and 6 commutes with rounding. They take two fifths of the time.

    Args:
        tower: for inference on this device alone from now on.
        side: of the pictures that it will read, pixels.
        device: where it will run.
    """
    operators = ("_convolution_pointwise", "_reorder_convolution_weight", "_is_mkldnn_bf16_supported")
    if not isinstance(tower, EfficientNetLite) or not _runs(operators, device):
        return
    kind = tower.conv_stem.weight.dtype
    if kind != torch.float32 and not (kind == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return
    # Modules are registered in the order in which they compute.
    for name, layer in list(tower.named_modules()):
        if isinstance(layer, nn.Conv2d):
            owner = tower.get_submodule(name.rpartition(".")[0])
            projects = layer is getattr(owner, "conv_pwl", owner.conv_pw if isinstance(owner, SeparableBlock) else None)
            tower.set_submodule(name, _PackedConvolution(layer, side, bounded=not projects))
            side = -(-side // layer.stride[0])
    for module in tower.modules():
        if isinstance(module, EfficientNetLite | InvertedResidual | SeparableBlock):
            module.bound = nn.Identity()  # type: ignore[assignment]


def _runs(operators: tuple[str, ...], device: torch.device) -> bool:
    """Tell whether oneDNN runs on a device through this PyTorch, with these operators."""
    known = all(hasattr(torch.ops.mkldnn, name) for name in operators)
    return device.type == "cpu" and known and torch.backends.mkldnn.is_available()
