"""The built-in expression encoder as a captioner sees it: feature maps of inner layers, and what it reads itself.

Shape suffixes: F frames, S image side, P places of a map, W its width, D feature size, A action units, N numbers of
a frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from streamfer.errors import CheckpointError
from streamfer.models.dfer_clip import DferClip
from streamfer.models.sizes import DferClipConfig
from streamfer.models.towers import build_image_encoder


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """How the numbers of a frame lie in a row: the maps one after the other, then the summary.

    Attributes:
        maps: places and width of each map.
        summary: the encoder's feature and the log odds of its action units.
    """

    maps: tuple[tuple[int, int], ...]
    summary: int

    @property
    def size(self) -> int:
        """Numbers of a frame, N."""
        return sum(places * width for places, width in self.maps) + self.summary

    def split(self, rows_FN: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the maps, each (F, P, W), and the summary (F, D + A) of rows (F, N)."""
        sizes = [places * width for places, width in self.maps]
        *parts, summary = torch.split(rows_FN, [*sizes, self.summary], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.maps, strict=True)], summary


class FrozenEncoder(nn.Module):
    """Image encoder and action head of an expression model, with taps on inner layers; never trained here."""

    layout: FeatureLayout

    def __init__(self, config: DferClipConfig, taps: Sequence[str] | None = None) -> None:
        """Build with random weights.

        Args:
            config: of the expression model.
            taps: names of the image encoder's layers whose outputs are read; the last two stages of a residual
                network, or the tokens that leave a ViT's transformer, where not given.

        Raises:
            CheckpointError: no such layer, or one whose output is no map.
        """
        super().__init__()
        self.image_encoder = build_image_encoder(config.vision, config.embed_dim, quick_gelu=config.quick_gelu)
        self.action_head = nn.Linear(config.embed_dim, len(config.action_units)) if config.action_units else None
        self.taps = tuple(taps or (("layer3", "layer4") if config.vision.is_resnet else ("transformer",)))
        self._seen: dict[str, torch.Tensor] = {}
        for name in self.taps:
            try:
                self.image_encoder.get_submodule(name).register_forward_hook(self._keeper(name))
            except AttributeError as error:
                raise CheckpointError(f"taps: the image encoder has no layer {name!r}; expected {self.taps}") from error
        self.requires_grad_(False).eval()
        self.layout = self._measure(config.vision.image_size)

    @classmethod
    def of(cls, model: DferClip, taps: Sequence[str] | None = None) -> FrozenEncoder:
        """Return a copy of a model's image encoder and action head."""
        encoder = cls(model.config, taps)
        mine = encoder.state_dict()
        encoder.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in mine})
        return encoder

    def _keeper(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            self._seen[name] = output

        return keep

    def _measure(self, side: int) -> FeatureLayout:
        with torch.no_grad():
            maps, summary_FD = self._read(torch.zeros(1, 3, side, side))
        return FeatureLayout(tuple((part.shape[1], part.shape[2]) for part in maps), summary_FD.shape[1])

    def _read(self, pixels_F3SS: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        features_FD = self.image_encoder(pixels_F3SS)
        maps = [_places(self._seen.pop(name), name) for name in self.taps]
        if self.action_head is None:
            return maps, features_FD
        return maps, torch.cat([features_FD, self.action_head(features_FD)], dim=1)

    @torch.no_grad()
    def forward(self, pixels_F3SS: torch.Tensor) -> torch.Tensor:
        """Encode frames to rows (F, N) as :attr:`layout` says."""
        maps, summary_FD = self._read(pixels_F3SS)
        return torch.cat([*(part.flatten(1) for part in maps), summary_FD], dim=1)


def _places(output_: torch.Tensor, name: str) -> torch.Tensor:
    """Return (F, P, W) of a residual stage's map (F, W, h, w) or of a ViT's tokens (F, 1 + P, W)."""
    if output_.ndim == 4:
        return output_.flatten(2).transpose(1, 2)
    if output_.ndim == 3 and math.isqrt(output_.shape[1] - 1) ** 2 == output_.shape[1] - 1:
        return output_[:, 1:]
    raise CheckpointError(f"taps: layer {name!r} puts out {tuple(output_.shape)}; expected a map or a ViT's tokens")
