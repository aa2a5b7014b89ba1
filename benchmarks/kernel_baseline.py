"""The encoder and the label path as DFER-CLIP's authors run them, launch by launch: what ours is measured against."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from streamfer.models.dfer_clip import DferClip
from streamfer.models.sizes import VisionConfig
from streamfer.models.vision import QUICK


class PublishedBlock(nn.Module):
    """open_clip's block as the authors run it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.fc, self.proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All tokens, every time."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.fc(self.ln_2(x))
        return x + self.proj(y * torch.sigmoid(QUICK * y))


class Published(nn.Module):
    """The label path as published, launch by launch: every token of every layer, bf16 encoder, fp32 after it."""

    def __init__(self, vision: VisionConfig, model: DferClip) -> None:
        super().__init__()
        width = vision.width
        self.conv = nn.Conv2d(3, width, vision.patch_size, vision.patch_size, bias=False)
        places = (vision.image_size // vision.patch_size) ** 2 + 1
        self.token, self.places = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(places, width))
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(PublishedBlock(width, width // 64) for _ in range(vision.layers)))  # type: ignore[arg-type]
        self.out = nn.Linear(width, 512, bias=False)
        self.model = [model]

    def encode(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 crops to features."""
        pixels = crops.permute(0, 3, 1, 2).float() / 255
        x = self.conv(pixels.to(self.token.dtype)).flatten(2).mT
        x = self.norm(torch.cat([self.token.expand(len(x), 1, -1), x], 1) + self.places)
        return self.out(self.last(self.blocks(x)[:, 0])).float()

    def classify(self, windows: torch.Tensor) -> np.ndarray:
        """Windows to probabilities on the host."""
        net = self.model[0].temporal_net
        x = torch.cat([net.cls_token.expand(len(windows), 1, -1), windows], 1) + net.pos_embedding
        clip = net.temporal_transformer(x)[:, 0]
        return self.model[0].clip_logits(clip, self.model[0].class_features()).softmax(-1).cpu().numpy()
