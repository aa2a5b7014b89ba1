"""A plain residual network for small faces, where CLIP's bottlenecks and attention pool cost more than they give.

Names, initialisation and results are those of ``ResNet`` in timm with basic blocks, squeeze-and-excitation, a deep stem
and averaged shortcuts (He et al. 2016; Hu et al. 2018; He et al. 2019); importing timm takes seconds, and torchvision
and torch's compiler come with it.

Shape suffixes: F frames, S image side, C channels, D feature size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from streamfer.errors import InternalError


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole picture holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(8, (channels // 16 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, narrow, kernel_size=1)
        self.fc2 = nn.Conv2d(narrow, channels, kernel_size=1)

    def forward(self, x_FCSS: torch.Tensor) -> torch.Tensor:
        """Weigh channels; (F, C, S, S) to the same."""
        weights_FC11 = self.fc2(self.fc1(x_FCSS.mean((2, 3), keepdim=True)).relu_())
        return cast(torch.Tensor, x_FCSS * weights_FC11.sigmoid())


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        downsample = None
        if stride != 1 or inside != outside:
            pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride != 1 else nn.Identity()
            downsample = nn.Sequential(pool, nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside))
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.se = SqueezeExcitation(outside)
        self.downsample = downsample

    def forward(self, x_FCSS: torch.Tensor) -> torch.Tensor:
        """Transform; (F, C, S, S) to (F, C', S', S')."""
        y_FCSS = self.bn1(self.conv1(x_FCSS)).relu_()
        y_FCSS = self.se(self.bn2(self.conv2(y_FCSS)))
        shortcut_FCSS = x_FCSS if self.downsample is None else self.downsample(x_FCSS)
        return cast(torch.Tensor, y_FCSS + shortcut_FCSS).relu_()


class BasicResNet(nn.Module):
    """Basic blocks on a stem that halves once: (F, channels, S, S) to (F, D), S at least 16.

    Its last feature map has S / 16 places: pooling after the stem would lose half of a small face before the first
    block.
    """

    def __init__(self, layers: tuple[int, ...], width: int, embed_dim: int, *, channels: int = 3) -> None:
        """Build with random weights.

        Args:
            layers: blocks of each of the four stages, of widths w, 2w, 4w, 8w.
            width: w, even.
            embed_dim: D.
            channels: of the input; training reads grey pictures, weights files hold three.
        """
        super().__init__()
        half = width // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels, half, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, width, 3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(width)
        inside = width
        for stage, depth in enumerate(layers):
            outside = width << stage
            blocks = [
                BasicBlock(inside if first else outside, outside, 2 if first and stage else 1)
                for first in (place == 0 for place in range(depth))
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inside = outside
        self.fc = nn.Linear(inside, embed_dim)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, pixels_FCSS: torch.Tensor) -> torch.Tensor:
        """Encode pictures; (F, channels, S, S) to (F, D)."""
        x_FCSS = self.bn1(self.conv1(pixels_FCSS)).relu_()
        for stage in range(1, 5):
            x_FCSS = self.get_submodule(f"layer{stage}")(x_FCSS)
        return cast(torch.Tensor, self.fc(F.adaptive_avg_pool2d(x_FCSS, 1).flatten(1)))


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
            followed.weight, followed.bias = fuse_conv_bn_weights(
                followed.weight,
                followed.bias,
                module.running_mean,
                module.running_var,
                module.eps,
                module.weight,
                module.bias,
            )
            followed = None
            folded.append(name)
    for name in folded:
        encoder.set_submodule(name, nn.Identity())
