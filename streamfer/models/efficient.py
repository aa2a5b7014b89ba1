"""EfficientNet-Lite0 for small faces: inverted residuals without squeeze-and-excitation, activations bounded at 6.

Names of weights, widths and results are those of timm's ``efficientnet_lite0`` (Tan and Le 2019; the Lite variant by
its authors, 2020), with a projection to the feature in place of a classifier; importing timm takes seconds, and
torchvision and torch's compiler come with it.

Shape suffixes: F frames, S image side, C channels, D feature size.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from streamfer.errors import InternalError


class Stage(NamedTuple):
    """One stage of the published network: expansion, kernel, stride of its first block, channels at full width."""

    expansion: int
    kernel: int
    stride: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 16),
    Stage(6, 3, 2, 24),
    Stage(6, 5, 2, 40),
    Stage(6, 3, 2, 80),
    Stage(6, 5, 1, 112),
    Stage(6, 5, 2, 192),
    Stage(6, 3, 1, 320),
)
DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage of EfficientNet-Lite0."""
WIDTH = 32
"""Channels of its stem."""
_HEAD = 1280


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SeparableBlock(nn.Module):
    """A depthwise convolution, then a pointwise one: the first stage, which expands nothing."""

    def __init__(self, inside: int, outside: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(inside, inside, kernel, padding=kernel // 2, groups=inside, bias=False)
        self.bn1 = _norm(inside)
        self.conv_pw = nn.Conv2d(inside, outside, 1, bias=False)
        self.bn2 = _norm(outside)
        self.bound = nn.ReLU6()

    def forward(self, x_FCSS: torch.Tensor) -> torch.Tensor:
        """Transform; (F, C, S, S) to (F, C', S, S)."""
        y_FCSS = self.bound(self.bn1(self.conv_dw(x_FCSS)))
        y_FCSS = self.bn2(self.conv_pw(y_FCSS))
        return cast(torch.Tensor, y_FCSS + x_FCSS if y_FCSS.shape == x_FCSS.shape else y_FCSS)


class InvertedResidual(nn.Module):
    """Channels are expanded, filtered each for itself, and projected; a shortcut where the shape stays.

    ``drop`` is the share of pictures whose change is skipped in training (stochastic depth, Huang et al. 2016).
    """

    def __init__(self, inside: int, outside: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide = inside * stage.expansion
        self.conv_pw = nn.Conv2d(inside, wide, 1, bias=False)
        self.bn1 = _norm(wide)
        self.conv_dw = nn.Conv2d(
            wide, wide, stage.kernel, stride=stride, padding=stage.kernel // 2, groups=wide, bias=False
        )
        self.bn2 = _norm(wide)
        self.conv_pwl = nn.Conv2d(wide, outside, 1, bias=False)
        self.bn3 = _norm(outside)
        self.bound = nn.ReLU6()
        self.shortcut = stride == 1 and inside == outside
        self.drop = 0.0

    def forward(self, x_FCSS: torch.Tensor) -> torch.Tensor:
        """Transform; (F, C, S, S) to (F, C', S', S')."""
        y_FCSS = self.bound(self.bn1(self.conv_pw(x_FCSS)))
        y_FCSS = self.bound(self.bn2(self.conv_dw(y_FCSS)))
        y_FCSS = self.bn3(self.conv_pwl(y_FCSS))
        if not self.shortcut:
            return cast(torch.Tensor, y_FCSS)
        if self.training and self.drop:
            kept_F111 = torch.rand(len(y_FCSS), 1, 1, 1, device=y_FCSS.device) >= self.drop
            y_FCSS = y_FCSS * (kept_F111 / (1 - self.drop)).to(y_FCSS.dtype)
        return cast(torch.Tensor, x_FCSS + y_FCSS)


class EfficientNetLite(nn.Module):
    """Inverted residuals on a stem that halves once: (F, channels, S, S) to (F, D), S at least 32."""

    def __init__(self, layers: tuple[int, ...], width: int, embed_dim: int, *, channels: int = 3) -> None:
        """Build with random weights: blocks of each of the seven stages, and the stem's width, which the others follow.

        Training reads grey pictures (``channels``), weights files hold three.
        """
        super().__init__()
        self.conv_stem = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = _norm(width)
        self.blocks = nn.Sequential()
        inside = width
        for depth, stage in zip(layers, STAGES, strict=True):
            outside = max(2, stage.channels * width // WIDTH)
            row = nn.Sequential()
            for place in range(depth):
                stride = stage.stride if place == 0 else 1
                row.append(
                    SeparableBlock(inside, outside, stage.kernel)
                    if stage.expansion == 1
                    else InvertedResidual(inside, outside, stage, stride)
                )
                inside = outside
            self.blocks.append(row)
        head = _HEAD * width // WIDTH
        self.conv_head = nn.Conv2d(inside, head, 1, bias=False)
        self.bn2 = _norm(head)
        self.bound = nn.ReLU6()
        self.fc = nn.Linear(head, embed_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels_FCSS: torch.Tensor) -> torch.Tensor:
        """Encode pictures; (F, channels, S, S) to (F, D)."""
        x_FCSS = self.bound(self.bn1(self.conv_stem(pixels_FCSS)))
        x_FCSS = self.bound(self.bn2(self.conv_head(self.blocks(x_FCSS))))
        return cast(torch.Tensor, self.fc(x_FCSS.mean((2, 3))))


def fold_norms(encoder: nn.Module) -> None:
    """Fold the batch norms of a convolutional tower into their convolutions, in place, for inference.

    Features agree to about 1e-6 of their size. In both towers a norm is registered right after the convolution
    that it follows in the computation, and no convolution feeds two norms.
    """
    followed: nn.Conv2d | None = None
    folded: list[str] = []
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            followed = module
        elif isinstance(module, nn.BatchNorm2d):
            if followed is None or module.running_mean is None or module.running_var is None:
                raise InternalError(f"{name}: no convolution to fold this norm into")
            statistics = module.running_mean, module.running_var, module.eps, module.weight, module.bias
            followed.weight, followed.bias = fuse_conv_bn_weights(followed.weight, followed.bias, *statistics)
            followed = None
            folded.append(name)
    for name in folded:
        encoder.set_submodule(name, nn.Identity())
