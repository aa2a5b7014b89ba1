"""Random models small enough for any test, with cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamfer.geometry import loose_crop
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.sizes import DferClipConfig, TemporalConfig, VisionConfig
from streamfer.models.weights import write_weights

VIT = VisionConfig(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
RESNET = VisionConfig(layers=(1, 1, 1, 1), width=8, head_width=32, image_size=64)
INVERTED = VisionConfig(layers=(1, 1, 2, 1, 1, 1, 1), width=8, image_size=32, block="inverted")


def _settle(model: DferClip) -> None:
    """Give batch norms scales, and the statistics of random pictures: else all pictures look alike inside."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train().encode_frames(torch.rand(16, 3, *(2 * (model.config.vision.image_size,))))


def tiny_model(
    *, resnet: bool = False, seed: int = 0, vision: VisionConfig | None = None, actions: tuple[str, ...] = ()
) -> DferClip:
    """A random model whose outputs vary with its input; ``vision`` overrides ``resnet``."""
    vision = vision or (RESNET if resnet else VIT)
    torch.manual_seed(seed)
    config = DferClipConfig(
        classes=("joy", "gloom", "calm"),
        embed_dim=16,
        vision=vision,
        temporal=TemporalConfig(layers=1, heads=2, dim_head=8, mlp_dim=24, frames=4),
        temperature=0.05,
        action_units=actions,
    )
    model = DferClip(config)
    if vision.is_resnet:
        _settle(model)
    return model.eval()


def tiny_card(model: DferClip, **changes: Any) -> ModelCard:
    """A card that fits ``model``."""
    size = model.config.vision.image_size
    fields: dict[str, Any] = {
        "name": "tiny",
        "config": model.config,
        "pixels": PixelProfile(size=size),
        "crop": loose_crop(size),
        "licence": "CC0: random numbers",
    }
    return ModelCard(**{**fields, **changes})


def tiny_weights(
    path: Path,
    *,
    resnet: bool = False,
    seed: int = 0,
    vision: VisionConfig | None = None,
    actions: tuple[str, ...] = (),
    **changes: Any,
) -> Path:
    """A weights file of a tiny model."""
    model = tiny_model(resnet=resnet, seed=seed, vision=vision, actions=actions)
    write_weights(path, model, tiny_card(model, name=path.stem, **changes))
    return path
