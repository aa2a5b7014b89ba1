"""LAVIS's checkpoint layout: which of its tensors is which of transformers', and the sizes that the tensors show.

Names are translated one way, from transformers' to LAVIS's, so that every complaint names the key that stands in the
file. Rules: transformers' converters of BLIP-2 and InstructBLIP; one bias of three parts is built from two, because
EVA's keys have none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch

from streamfer.captions.architecture import QuerySizes
from streamfer.captions.card import Architecture
from streamfer.errors import CheckpointError

Kind = Literal["exp-blip", "exp-vqa"]
#: Prefix of the projection and of the language model's tensors.
_STEM: dict[Kind, str] = {"exp-blip": "opt", "exp-vqa": "llm"}
ARCHITECTURES: dict[Kind, Architecture] = {"exp-blip": "blip-2", "exp-vqa": "instructblip"}
_LAYER = "Qformer.bert.encoder.layer."
_BLOCK = "visual_encoder.blocks."
#: Buffers without weights in them, which some versions saved: position numbers, and rotation frequencies.
_WEIGHTLESS = re.compile(r"Qformer\.bert\.embeddings\.position_ids|(opt|llm)_model\..*rotary_emb\.inv_freq")
#: transformers' name, LAVIS's; tried in order, on the whole name.
_RULES: tuple[tuple[str, str], ...] = (
    (r"query_tokens", r"query_tokens"),
    (r"vision_model\.embeddings\.class_embedding", r"visual_encoder.cls_token"),
    (r"vision_model\.embeddings\.position_embedding", r"visual_encoder.pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding\.(.+)", r"visual_encoder.patch_embed.proj.\1"),
    (r"vision_model\.encoder\.layers\.(\d+)\.layer_norm(\d)\.(.+)", r"visual_encoder.blocks.\1.norm\2.\3"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.(.+)", r"visual_encoder.blocks.\1.attn.proj.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv\.weight", r"visual_encoder.blocks.\1.attn.qkv.weight"),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp\.(.+)", r"visual_encoder.blocks.\1.mlp.\2"),
    (r"vision_model\.post_layernorm\.(.+)", r"ln_vision.\1"),
    (r"qformer\.(?:embeddings\.)?layernorm\.(.+)", r"Qformer.bert.embeddings.LayerNorm.\1"),
    (r"qformer\.embeddings\.(.+)", r"Qformer.bert.embeddings.\1"),
    (r"qformer\.encoder\.layer\.(\d+)\.(cross)?attention\.attention\.(.+)", _LAYER + r"\1.\2attention.self.\3"),
    (r"qformer\.encoder\.layer\.(.+)", _LAYER + r"\1"),
)
_QKV_BIAS = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv\.bias")


def kind_of(names: Iterable[str], where: str) -> Kind:
    """Tell Exp-BLIP's checkpoints from Exp-VQA's by their projection.

    Raises:
        CheckpointError: neither, with what it looks like instead.
    """
    found = set(names)
    for kind, stem in _STEM.items():
        if f"{stem}_proj.weight" in found:
            return kind
    if "t5_proj.weight" in found:
        raise CheckpointError(f"{where}: made for FlanT5; only the OPT and Vicuna variants can be imported")
    if "Qformer.cls.predictions.bias" in found or "itm_head.weight" in found:
        raise CheckpointError(
            f"{where}: tensor 'opt_proj.weight' is missing; a checkpoint of the first stage, which has no language "
            "model to write with: import one of the second stage"
        )
    raise CheckpointError(
        f"{where}: tensor 'opt_proj.weight' or 'llm_proj.weight' is missing; is this a LAVIS checkpoint of "
        "Exp-BLIP or Exp-VQA, and complete?"
    )


def looks_like_lavis(names: Iterable[str]) -> bool:
    """Tell whether tensor names have LAVIS's layout of BLIP-2."""
    return any(name.startswith(("Qformer.", "visual_encoder.", "opt_proj.", "llm_proj.")) for name in names)


def sources(name: str, kind: Kind) -> tuple[str, ...]:
    """Return LAVIS's tensor, or the two of a bias, behind transformers' ``name``.

    Raises:
        KeyError: no rule for the name.
    """
    if match := _QKV_BIAS.fullmatch(name):
        return tuple(f"{_BLOCK}{match[1]}.attn.{part}_bias" for part in "qv")
    if name.startswith("language_projection."):
        return (f"{_STEM[kind]}_proj.{name.removeprefix('language_projection.')}",)
    for pattern, replacement in _RULES:
        if match := re.fullmatch(pattern, name):
            return (match.expand(replacement),)
    raise KeyError(name)


def language_prefix(kind: Kind) -> str:
    """Return the prefix of the language model's tensors."""
    return f"{_STEM[kind]}_model."


def projection_width(tensors: Mapping[str, torch.Tensor], kind: Kind, where: str) -> int:
    """Return the width of the language model that the projection writes for."""
    return _shape(tensors, f"{_STEM[kind]}_proj.weight", 2, where)[0]


def _shape(tensors: Mapping[str, torch.Tensor], name: str, dimensions: int, where: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"{where}: tensor {name!r} is missing; is this a LAVIS checkpoint, and complete?")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(f"{where}: tensor {name!r} has shape {shape}; expected {dimensions} dimensions")
    return shape


def _depth(tensors: Mapping[str, torch.Tensor], prefix: str, where: str) -> int:
    """Return how many consecutive numbered parts follow ``prefix``."""
    found = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    numbers = {int(number) for number in found if number.isdecimal()}
    depth = next(count for count in range(len(numbers) + 1) if count not in numbers)
    if not depth or depth != len(numbers):
        raise CheckpointError(f"{where}: tensor '{prefix}{depth}...' is missing")
    return depth


def _heads(width: int, widths: tuple[int, ...], which: str, where: str) -> int:
    """Return the number of heads, which no tensor shows, from the widths that published heads have."""
    heads = next((width // one for one in widths if width % one == 0), 0)
    if not heads:
        raise CheckpointError(f"{where}: {which} of width {width} has no heads of {' or '.join(map(str, widths))}")
    return heads


def _cross_every(tensors: Mapping[str, torch.Tensor], layers: int, where: str) -> int:
    """Return every how many layers the Q-Former looks at the picture."""
    marks = [f"{_LAYER}{number}.crossattention." for number in range(layers)]
    found = [number for number, mark in enumerate(marks) if any(name.startswith(mark) for name in tensors)]
    step = found[1] - found[0] if len(found) > 1 else layers
    for expected in range(0, layers, step):
        if expected not in found:
            raise CheckpointError(f"{where}: tensor '{marks[expected]}...' is missing; is the checkpoint complete?")
    return step


def read_sizes(tensors: Mapping[str, torch.Tensor], kind: Kind, where: str) -> QuerySizes:
    """Read every size off the tensors; only the numbers of heads follow from the published head widths.

    Raises:
        CheckpointError: a tensor that shows a size is missing or has another form; it is named.
    """
    width, _, patch, _ = _shape(tensors, "visual_encoder.patch_embed.proj.weight", 4, where)
    _, positions, _ = _shape(tensors, "visual_encoder.pos_embed", 3, where)
    side = math.isqrt(positions - 1)
    if side * side != positions - 1 or not side:
        raise CheckpointError(
            f"{where}: tensor 'visual_encoder.pos_embed' has {positions} positions; expected a square number and one"
        )
    mlp, _ = _shape(tensors, f"{_BLOCK}0.mlp.fc1.weight", 2, where)
    _, queries, qformer = _shape(tensors, "query_tokens", 3, where)
    layers = _depth(tensors, _LAYER, where)
    qformer_mlp, _ = _shape(tensors, f"{_LAYER}0.intermediate_query.dense.weight", 2, where)
    words = {}
    if kind == "exp-vqa":
        vocabulary, _ = _shape(tensors, "Qformer.bert.embeddings.word_embeddings.weight", 2, where)
        longest, _ = _shape(tensors, "Qformer.bert.embeddings.position_embeddings.weight", 2, where)
        words = {"vocabulary": vocabulary, "positions": longest}
    return QuerySizes(
        image=side * patch,
        patch=patch,
        vision_width=width,
        vision_layers=_depth(tensors, _BLOCK, where),
        vision_heads=_heads(width, (88, 64), "vision", where),
        vision_mlp=mlp,
        queries=queries,
        qformer_width=qformer,
        qformer_layers=layers,
        qformer_heads=_heads(qformer, (64,), "Q-Former", where),
        qformer_mlp=qformer_mlp,
        cross_every=_cross_every(tensors, layers, where),
        **words,
    )


def translate(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], kind: Kind, where: str
) -> dict[str, torch.Tensor]:
    """Return transformers' tensors, all but the language model's, out of LAVIS's; ``expected`` has names and shapes.

    Raises:
        CheckpointError: the first tensor that is missing, has another shape, is not finite or has no place.
    """
    used: set[str] = set()
    translated = {}
    for name, wanted in expected.items():
        if name.startswith("language_model."):
            continue
        parts = sources(name, kind)
        shape = wanted.shape if len(parts) == 1 else torch.Size([wanted.shape[0] // 3])
        for part in parts:
            _check(tensors, part, shape, where)
        used.update(parts)
        first = tensors[parts[0]]
        if len(parts) == 2:
            # Queries, keys (no bias in EVA), values; half-precision weights may come with fp32 biases.
            kept = tensors[parts[0].replace("q_bias", "qkv.weight")].dtype
            first = torch.cat([first, torch.zeros_like(first), tensors[parts[1]]]).to(kept)
        translated[name] = first
    extra = [name for name in tensors if name not in used and not name.startswith(language_prefix(kind))]
    if unknown := sorted(name for name in extra if not _WEIGHTLESS.fullmatch(name)):
        raise CheckpointError(f"{where}: tensor {unknown[0]!r} is not part of the model ({len(unknown)} in all)")
    return translated


def _check(tensors: Mapping[str, torch.Tensor], name: str, shape: torch.Size, where: str) -> None:
    if name not in tensors:
        raise CheckpointError(f"{where}: tensor {name!r} is missing; is the checkpoint complete?")
    if tensors[name].shape != shape:
        raise CheckpointError(
            f"{where}: tensor {name!r} has shape {tuple(tensors[name].shape)}; expected {tuple(shape)}"
        )
    if tensors[name].is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
        raise CheckpointError(f"{where}: tensor {name!r} holds values that are not finite")


def language_tensors(tensors: Mapping[str, torch.Tensor], kind: Kind) -> dict[str, torch.Tensor]:
    """Return the language model's own tensors under its names; empty where the checkpoint was trimmed."""
    prefix = language_prefix(kind)
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not _WEIGHTLESS.fullmatch(name)
    }
