"""Weights in LAVIS's names: what the first step writes, and what both steps may start from.

The file of the first step is what ``blip2_pretrained.pth`` is: other tools read it, and it needs no code of ours.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from streamfer.captions.lavis import sources
from streamfer.errors import CheckpointError
from streamfer.models.checkpoints import read_state_dict

log = logging.getLogger(__name__)

_HEADS = ("vision_projection.", "text_projection.", "itm_head.", "word_head.", "temperature")
_MAY_LACK = re.compile(
    r"qformer\.encoder\.layer\.\d+\.(intermediate|output)\..+|(qformer\.)?embeddings\.(word|position)_embeddings\.weight"
)


def lavis_names(name: str) -> tuple[str, ...]:
    """Return LAVIS's tensor, or the two of a bias, behind a weight of the first step's model; a KeyError for others."""
    return sources(f"qformer.{name}" if name.startswith("embeddings.") else name, "exp-blip")


def to_lavis(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the first step's weights in LAVIS's names.

    EVA's keys have no bias in LAVIS; adding one to every key moves no attention, so leaving it out changes nothing.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        names = lavis_names(name)
        parts = (tensor,) if len(names) == 1 else (tensor.chunk(3)[0], tensor.chunk(3)[2])
        found.update({one: part.detach().cpu().contiguous() for one, part in zip(names, parts, strict=True)})
    found["temp"] = found["temp"].reshape(())
    # As LAVIS stores them: the head's last layer shares the embeddings.
    found["Qformer.cls.predictions.decoder.weight"] = found["Qformer.bert.embeddings.word_embeddings.weight"].clone()
    found["Qformer.cls.predictions.decoder.bias"] = found["Qformer.cls.predictions.bias"].clone()
    return found


def read_start(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint in LAVIS's layout, of either step; a CheckpointError where it is another's."""
    tensors = read_state_dict(path)
    if "query_tokens" not in tensors:
        raise CheckpointError(f"{path}: tensor 'query_tokens' is missing; is it a checkpoint in LAVIS's layout?")
    return tensors


def read_vision(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an image encoder alone (``eva_vit_g.pth``, or a ViT of MAE) under LAVIS's names."""
    tensors = read_state_dict(path)
    if any(name.startswith("visual_encoder.") for name in tensors):
        return {name: tensor for name, tensor in tensors.items() if name.startswith(("visual_encoder.", "ln_vision."))}
    if "patch_embed.proj.weight" not in tensors:
        raise CheckpointError(
            f"{path}: tensor 'patch_embed.proj.weight' is missing; is it an EVA or MAE image encoder?"
        )
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("attn.qkv.bias"):
            # MAE's keys have a bias, LAVIS's names none: one bias for every key moves no attention.
            stem = f"visual_encoder.{name.removesuffix('qkv.bias')}"
            found[f"{stem}q_bias"], _, found[f"{stem}v_bias"] = tensor.chunk(3)
        elif name.startswith("norm."):
            found[f"ln_vision.{name.removeprefix('norm.')}"] = tensor
        else:
            found[f"visual_encoder.{name}"] = tensor
    return found


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str, *, optional: tuple[str, ...] = ()) -> list[str]:
    """Load what a LAVIS checkpoint has for a model; return the model's tensors that it lacks.

    What may be lacking: heads of the first step, the language model and its projection, text parts of the
    Q-Former, and the image encoder (LAVIS leaves out frozen weights); and names that begin as one of ``optional``.

    Raises:
        CheckpointError: the first tensor that is missing and may not be, or has another shape.
    """
    found: dict[str, Tensor] = {}
    lacking = []
    for name, wanted in model.state_dict().items():
        if name.startswith("language_model."):
            continue
        if name.startswith("language_projection."):
            parts = tuple(f"{stem}{name.removeprefix('language_projection')}" for stem in ("opt_proj", "llm_proj"))
            parts = tuple(part for part in parts if part in tensors) or parts[:1]
        else:
            parts = lavis_names(name)
        if any(part not in tensors for part in parts):
            if not (_MAY_LACK.fullmatch(name) or name.startswith((*_HEADS, "language_projection.", *optional))):
                raise CheckpointError(f"{where}: tensor {parts[0]!r} is missing; is the checkpoint complete?")
            lacking.append(name)
            continue
        found[name] = _fitted(name, [tensors[part] for part in parts], wanted, parts[0], where)
    model.load_state_dict(found, strict=False)
    return lacking


def _fitted(name: str, parts: list[Tensor], wanted: Tensor, source: str, where: str) -> Tensor:
    tensor = parts[0]
    if len(parts) == 2:
        tensor = torch.cat([tensor, torch.zeros_like(tensor), parts[1]])
    if name.endswith("position_embedding") and "vision" in name and tensor.shape != wanted.shape:
        from timm.layers.pos_embed import resample_abs_pos_embed

        side = math.isqrt(wanted.shape[1] - 1)
        tensor = resample_abs_pos_embed(tensor, [side, side], antialias=False)
    if name.startswith("language_projection.") and tensor.shape != wanted.shape:
        log.warning("exp_blip.projection_anew", extra={"reason": "another language model", "source": source})
        return wanted
    if name == "temperature":
        tensor = tensor.reshape(-1)
    if tensor.shape != wanted.shape:
        raise CheckpointError(
            f"{where}: tensor {source!r} has shape {tuple(tensor.shape)}; model.sizes ask for {tuple(wanted.shape)}"
        )
    return tensor.to(wanted.dtype)
