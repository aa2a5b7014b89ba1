"""Running the parts that both steps share: the image encoder, frozen or not, and which of its memory is recomputed.

Shape suffixes: B pictures, S image side, P positions, W width of the image encoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as V

from streamfer.captions.card import CLIP_MEAN, CLIP_STD


def encode(vision_model: Any, pixels_B3SS: Tensor) -> Tensor:
    """Return features (B, P, W) of uint8 pixels; the last norm runs in its own type, which may be finer."""
    kind = vision_model.embeddings.patch_embedding.weight.dtype
    seen_B3SS = V.normalize(pixels_B3SS.float() / 255, list(CLIP_MEAN), list(CLIP_STD))
    hidden_BPW = vision_model.embeddings(seen_B3SS.to(kind))
    hidden_BPW = vision_model.encoder(inputs_embeds=hidden_BPW).last_hidden_state
    norm = vision_model.post_layernorm
    features_BPW: Tensor = norm(hidden_BPW.to(norm.weight.dtype))
    return features_BPW


def keep_frozen_coarse(part: nn.Module, kind: torch.dtype) -> None:
    """Store weights that do not learn in a coarser type."""
    for weight in part.parameters():
        if not weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.to(kind)


def recompute(part: Any) -> None:
    """Let a model of transformers recompute its activations in the backward pass."""
    # Renamed within transformers 5; the older name warns in the newer releases.
    newer = getattr(part, "activation_checkpointing_enable", None)
    (newer or part.gradient_checkpointing_enable)()


def without_dropout(part: nn.Module) -> None:
    """Switch dropout off for good, whether it is a module or a number in a layer.

    A frozen language model has nothing to regularise; in training mode it may still recompute its activations.
    """
    for module in part.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
