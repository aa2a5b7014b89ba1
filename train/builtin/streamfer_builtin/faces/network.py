"""The detector's network: a small convolutional trunk, a feature pyramid and one head per stride.

Strides are 8, 16 and 32 pixels with two anchors a place, as in SCRFD (Guo et al. 2021, "Sample and Computation
Redistribution for Efficient Face Detection"): the first anchor of a place is for smaller faces, the second for
larger ones. Dense 3x3 convolutions are preferred to depthwise ones in the trunk: on a CPU they are faster per
operation, in training as in ONNX Runtime.

Shape suffixes: B batch, C channels, H and W places, A anchors of all levels, P five landmarks times two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANCHORS = 2
PRIORS = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
"""Side in pixels of the square face that each anchor of each stride starts from."""
GROUPS = ("score", "box", "landmarks")
WIDTHS = {"score": 1, "box": 4, "landmarks": 10}
LOG_LIMIT = 2.5
"""Logarithms of box sides relative to the prior are clamped to this, so that a wild weight cannot overflow."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Channel counts: ``trunk`` at strides 2, 4, 8, 16 and 32, and ``pyramid`` in the feature pyramid."""

    trunk: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128)
    pyramid: int = 48


@dataclass(frozen=True, slots=True)
class Predictions:
    """All anchors of a batch: ``logits`` B x A, ``boxes`` B x A x 4 and ``landmarks`` B x A x 10 (input pixels)."""

    logits: Tensor
    boxes: Tensor
    landmarks: Tensor


class ConvUnit(nn.Sequential):
    """Convolution, ReLU. There is no normalisation: weights start from a network whose norms were folded in."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups), nn.ReLU(inplace=True)
        )  # fmt: skip


class Separable(nn.Sequential):
    """A bare depthwise 3x3 convolution, then a pointwise unit."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs), ConvUnit(inputs, outputs, 1))

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """B x C x H x W to every ``stride``-th place of all: a strided gradient costs ten times that of all places."""
        each, mixed = cast(nn.Conv2d, self[0]), self[1]
        seen = nn.functional.conv2d(features_BCHW, each.weight, each.bias, 1, 1, groups=each.groups)
        step = each.stride[0]
        return cast(Tensor, mixed(seen[..., ::step, ::step]))


class Residual(nn.Module):
    """The input plus what two convolutions, the first of ``kernel`` and ``inner`` channels, add: nothing at first."""

    def __init__(self, channels: int, inner: int, kernel: int) -> None:
        super().__init__()
        self.change = nn.Sequential(ConvUnit(channels, inner, kernel), nn.Conv2d(inner, channels, 3, 1, 1))

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """B x C x H x W to the same."""
        change: Tensor = self.change(features_BCHW)
        return features_BCHW + change


class Head(nn.Module):
    """Scores, boxes and landmarks of one stride from its pyramid map.

    Landmarks start from the box's features and are refined by a dense branch of their own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = Separable(channels, channels)
        self.score = nn.Sequential(ConvUnit(channels, channels, 3, 1, channels), nn.Conv2d(channels, ANCHORS, 1))
        self.box = nn.Sequential(ConvUnit(channels, channels, 3, 1, channels), nn.Conv2d(channels, ANCHORS * 4, 1))
        self.landmarks = nn.Conv2d(channels, ANCHORS * 10, 1)
        self.points = nn.Sequential(ConvUnit(channels, channels), nn.Conv2d(channels, ANCHORS * 10, 1))

    def finals(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        """The last convolutions, for scores, boxes and landmarks."""
        return cast(nn.Conv2d, self.score[1]), cast(nn.Conv2d, self.box[1]), self.landmarks

    def forward(self, features_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw score, box and landmark maps."""
        shared = self.shared(features_BCHW)
        boxes = self.box[0](shared)
        return self.score(shared), self.box[1](boxes), self.landmarks(boxes) + self.points(shared)


class FaceNetwork(nn.Module):
    """Raw maps of the three strides from normalised pictures (RGB, (value - 127.5) / 128)."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        shape = shape or Shape()
        two, four, eight, sixteen, thirty_two = shape.trunk
        self.stem = nn.Sequential(ConvUnit(3, two, 3, 2), ConvUnit(two, four, 3, 2))
        self.level8 = nn.Sequential(ConvUnit(four, eight, 3, 2), ConvUnit(eight, eight), Separable(eight, eight))
        self.level16 = nn.Sequential(ConvUnit(eight, sixteen, 3, 2), ConvUnit(sixteen, sixteen))
        self.more = nn.ModuleList([Residual(eight, eight // 2, 1), Residual(sixteen, sixteen, 3)])
        self.level32 = nn.Sequential(
            Separable(sixteen, thirty_two, 2), Separable(thirty_two, thirty_two), Separable(thirty_two, thirty_two)
        )
        width = shape.pyramid
        self.laterals = nn.ModuleList(ConvUnit(channels, width, 1) for channels in (eight, sixteen, thirty_two))
        self.smooth = nn.ModuleList(Separable(width, width) for _ in range(2))
        self.heads = nn.ModuleList(Head(width) for _ in STRIDES)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))
        for more in self.more:
            nn.init.zeros_(cast(nn.Conv2d, cast(Residual, more).change[1]).weight)
        for head in self.heads:
            score, box, landmarks = cast(Head, head).finals()
            for final in (score, box, landmarks):
                nn.init.normal_(final.weight, std=0.01)
                nn.init.zeros_(cast(Tensor, final.bias))
            nn.init.zeros_(cast(nn.Conv2d, cast(Head, head).points[1]).weight)
            # Faces are rare among anchors: starting at a score of 0.02 keeps the first steps calm.
            nn.init.constant_(cast(Tensor, score.bias), -4.0)

    def forward(self, pictures_BCHW: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Raw (score, box, landmark) maps for each stride; height and width must be multiples of 32."""
        eight = self.more[0](self.level8(self.stem(pictures_BCHW)))
        sixteen = self.more[1](self.level16(eight))
        thirty_two = self.level32(sixteen)
        top = self.laterals[2](thirty_two)
        middle = self.smooth[1](self.laterals[1](sixteen) + _doubled(top))
        bottom = self.smooth[0](self.laterals[0](eight) + _doubled(middle))
        return [head(level) for head, level in zip(self.heads, (bottom, middle, top), strict=True)]


def _doubled(features_BCHW: Tensor) -> Tensor:
    return nn.functional.interpolate(features_BCHW, scale_factor=2.0, mode="nearest")


@cache
def anchor_grid(height: int, width: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Centres A x 2, priors A and strides A (pixels) of every anchor for an input of ``height`` x ``width``.

    The order is SCRFD's: strides, rows, columns, then the anchors of a place; centres are multiples of the stride.
    """
    centres, priors, strides = [], [], []
    for stride, sides in zip(STRIDES, PRIORS, strict=True):
        rows, columns = torch.meshgrid(
            torch.arange(height // stride), torch.arange(width // stride), indexing="ij"
        )  # fmt: skip
        places = torch.stack([columns, rows], dim=-1).reshape(-1, 1, 2) * float(stride)
        centres.append(places.expand(-1, ANCHORS, 2).reshape(-1, 2))
        priors.append(torch.tensor(sides).repeat(places.shape[0]))
        strides.append(torch.full((places.shape[0] * ANCHORS,), float(stride)))
    return torch.cat(centres).to(device), torch.cat(priors).to(device), torch.cat(strides).to(device)


def decoded(maps: list[tuple[Tensor, Tensor, Tensor]]) -> Predictions:
    """Float32 logits, boxes and landmarks of all anchors from the raw maps of the three strides."""
    flat = [
        torch.cat([_flat(level[index], WIDTHS[group]) for level in maps], dim=1).float()
        for index, group in enumerate(GROUPS)
    ]
    height, width = (side * STRIDES[0] for side in maps[0][0].shape[-2:])
    centres, priors, _ = anchor_grid(height, width, flat[0].device)
    reach = flat[1].clamp(-LOG_LIMIT, LOG_LIMIT).exp() * (priors[:, None] / 2)
    boxes = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)
    landmarks = flat[2] * priors[:, None] + centres.repeat(1, 5)
    return Predictions(flat[0].squeeze(-1), boxes, landmarks)


def _flat(map_BCHW: Tensor, width: int) -> Tensor:
    """B x (anchors * width) x H x W to B x (H * W * anchors) x width."""
    return map_BCHW.permute(0, 2, 3, 1).reshape(map_BCHW.shape[0], -1, width)
