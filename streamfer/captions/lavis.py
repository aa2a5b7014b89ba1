"""Exp-BLIP's and Exp-VQA's checkpoints, which LAVIS wrote: whose tensors are whose, the sizes that they show, import.

Names are translated one way, from transformers' to LAVIS's, so that every complaint names the key that stands in the
file. Rules: transformers' converters of BLIP-2 and InstructBLIP; one bias of three parts is built from two, because
EVA's keys have none.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from streamfer.captions.architecture import QuerySizes, build_model
from streamfer.captions.card import (
    EXP_BLIP_TEXT,
    EXP_VQA_TEXT,
    Architecture,
    CaptionCard,
    TextCard,
    clip_pixels,
    face_crop,
)
from streamfer.captions.folder import write_folder
from streamfer.captions.loading import read_language_model, read_word_tokenizer
from streamfer.captions.text import PromptText
from streamfer.captions.writers import BUILT_IN
from streamfer.errors import CheckpointError, ConfigError
from streamfer.files import sha256_of, table_beside
from streamfer.models.card import SUFFIX
from streamfer.models.checkpoints import Tensors, read_state_dict
from streamfer.models.registry import check_name, user_folder
from streamfer.models.weights import check_finite, check_tensors

Kind = Literal["exp-blip", "exp-vqa"]


@dataclass(frozen=True, slots=True)
class System:
    """One of the two published systems; LAVIS calls projection and language model by ``stem``."""

    stem: str
    architecture: Architecture
    text: TextCard
    licence: str


_LICENCE = "as the checkpoint's authors state (trained on datasets for research only); the language model's licence"
SYSTEMS: dict[Kind, System] = {
    "exp-blip": System("opt", "blip-2", EXP_BLIP_TEXT, f"{_LICENCE} applies as well (OPT: non-commercial research)"),
    "exp-vqa": System(
        "llm", "instructblip", EXP_VQA_TEXT, f"{_LICENCE} applies as well (Vicuna: LLaMA's, non-commercial)"
    ),
}
_LAYER = "Qformer.bert.encoder.layer."
_BLOCK = "visual_encoder.blocks."
log = logging.getLogger(__name__)

#: Buffers without weights in them, which some versions saved: position numbers, and rotation frequencies.
_WEIGHTLESS = re.compile(r"Qformer\.bert\.embeddings\.position_ids|(opt|llm)_model\..*rotary_emb\.inv_freq")
#: Which tensor, of how many dimensions, shows a size along which of them; and LAVIS's names for transformers'.
_SHOWN, _NAMES = table_beside(__file__).values()


def kind_of(names: Iterable[str], where: str) -> Kind:
    """Tell Exp-BLIP's checkpoints from Exp-VQA's by their projection; a CheckpointError says what else it seems."""
    found = set(names)
    for kind, system in SYSTEMS.items():
        if f"{system.stem}_proj.weight" in found:
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
    """Return LAVIS's tensor, or the two of a bias, behind transformers' ``name`` (KeyError: it has none)."""
    found = name.replace("language_projection.", f"{SYSTEMS[kind].stem}_proj.")
    for ours, theirs in _NAMES.items():
        found = found.replace(ours, theirs)
    if found == name and not name.startswith(("query_tokens", "itm_head.")):
        raise KeyError(name)
    if found.endswith("attn.qkv.bias"):
        return found.replace("qkv.bias", "q_bias"), found.replace("qkv.bias", "v_bias")
    return (found,)


def _heads(width: int, widths: tuple[int, ...], which: str, where: str) -> int:
    """Return the number of heads, which no tensor shows, from the widths that published heads have."""
    heads = next((width // one for one in widths if width % one == 0), 0)
    if not heads:
        raise CheckpointError(f"{where}: {which} of width {width} has no heads of {' or '.join(map(str, widths))}")
    return heads


def _cross_every(found: Tensors, layers: int) -> int:
    """Return every how many layers the Q-Former looks at the picture."""
    marks = [f"{_LAYER}{number}.crossattention." for number in range(layers)]
    looking = [number for number, mark in enumerate(marks) if any(name.startswith(mark) for name in found.tensors)]
    step = looking[1] - looking[0] if len(looking) > 1 else layers
    for expected in range(0, layers, step):
        if expected not in looking:
            raise CheckpointError(f"{found.where}: tensor '{marks[expected]}...' is missing; is it complete?")
    return step


def read_sizes(found: Tensors, kind: Kind) -> QuerySizes:
    """Read every size off the tensors; only the numbers of heads follow from the published head widths."""
    words = ("vocabulary", "positions")
    shown = {size: row for size, row in _SHOWN.items() if kind == "exp-vqa" or size not in words}
    sizes = {size: found.shape(name, dimensions)[axis] for size, (name, dimensions, axis) in shown.items()}
    layers = found.depth(_LAYER)
    return QuerySizes(
        **sizes,
        image=found.side("visual_encoder.pos_embed", 3) * sizes["patch"],
        vision_layers=found.depth(_BLOCK),
        vision_heads=_heads(sizes["vision_width"], (88, 64), "vision", found.where),
        qformer_layers=layers,
        qformer_heads=_heads(sizes["qformer_width"], (64,), "Q-Former", found.where),
        cross_every=_cross_every(found, layers),
    )


def translate(expected: Mapping[str, torch.Tensor], found: Tensors, kind: Kind) -> dict[str, torch.Tensor]:
    """Return transformers' tensors, all but the language model's, out of LAVIS's; ``expected`` has names and shapes.

    Raises:
        CheckpointError: the first tensor that is missing, has another shape, is not finite or has no place.
    """
    stem = f"{SYSTEMS[kind].stem}_model."
    given = {name: tensor for name, tensor in found.tensors.items()
             if not name.startswith(stem) and not _WEIGHTLESS.fullmatch(name)}  # fmt: skip
    behind = {name: sources(name, kind) for name in expected if not name.startswith("language_model.")}
    check_tensors(
        # A bias of three parts is built from two of a third each.
        {part: expected[name].chunk(2 * len(parts) - 1)[0] for name, parts in behind.items() for part in parts},
        given,
        found.where,
    )
    check_finite(given, found.where)
    translated = {name: given[parts[0]] for name, parts in behind.items()}
    for name, parts in behind.items():
        if len(parts) == 2:
            # Queries, keys (no bias in EVA), values; half-precision weights may come with fp32 biases.
            query, value = (given[part] for part in parts)
            kept = given[parts[0].replace("q_bias", "qkv.weight")].dtype
            translated[name] = torch.cat([query, torch.zeros_like(query), value]).to(kept)
    return translated


def language_tensors(tensors: Mapping[str, torch.Tensor], kind: Kind) -> dict[str, torch.Tensor]:
    """Return the language model's own tensors under its names; empty where the checkpoint was trimmed."""
    stem = f"{SYSTEMS[kind].stem}_model."
    names = [name for name in tensors if name.startswith(stem) and not _WEIGHTLESS.fullmatch(name)]
    return {name.removeprefix(stem): tensors[name] for name in names}


def import_lavis(
    path: str | Path,
    name: str,
    *,
    language_model: str | Path,
    question_tokenizer: str | Path | None = None,
    kind: Kind | Literal["auto"] = "auto",
    licence: str | None = None,
    output: Path | None = None,
) -> CaptionCard:
    """Turn a LAVIS checkpoint into a captioner's folder that ``load_captioner`` takes by name.

    Args:
        path: the checkpoint, with or without the frozen language model in it.
        name: name to load it by.
        language_model: folder of the language model as transformers saves it: configuration, tokenizer, and weights
            where the checkpoint has none.
        question_tokenizer: folder of the Q-Former's tokenizer (bert-base-uncased), for Exp-VQA.
        kind: which system; told by the tensors where ``auto``.
        licence: licence of the weights in plain words.
        output: folder to write instead of the user's models folder.

    Raises:
        SourceNotFoundError: no such checkpoint or folder.
        UnsafeCheckpointError: the file asks to run something; nothing was run.
        CheckpointError: damaged, or not this architecture; the first tensor that does not match is named.
        ConfigError: the name cannot be used, or the question tokenizer was not given.
        OutputError: the folder cannot be written.
    """
    source, where = Path(path), str(path)
    _check_free(name)
    found = Tensors(read_state_dict(source), where, "LAVIS checkpoint")
    kind = kind_of(found.tensors, where) if kind == "auto" else kind
    system, sizes = SYSTEMS[kind], read_sizes(found, kind)
    asking = None
    if kind == "exp-vqa":
        if question_tokenizer is None:
            raise ConfigError(
                "Exp-VQA's Q-Former reads the question with BERT's vocabulary: give the folder of bert-base-uncased "
                "with --question-tokenizer"
            )
        asking = read_word_tokenizer(Path(question_tokenizer), sizes.vocabulary)
    own = language_tensors(found.tensors, kind)
    decoder, tokenizer = read_language_model(Path(language_model), own, where)
    PromptText(system.text, tokenizer, asking)
    projection = f"{system.stem}_proj.weight"
    width, _ = found.shape(projection, 2)
    if width != decoder.config.hidden_size:
        raise CheckpointError(
            f"{where}: tensor {projection!r} writes for a language model of width {width}; "
            f"{language_model} has {decoder.config.hidden_size}: give the folder of the model it was trained with"
        )
    with torch.device("meta"):
        model: Any = build_model(system.architecture, sizes, decoder.config)
    model.language_model = decoder
    model.load_state_dict(translate(model.state_dict(), found, kind), strict=False, assign=True)
    card = CaptionCard(
        name=name,
        architecture=system.architecture,
        pixels=clip_pixels(sizes.image),
        crop=face_crop(sizes.image),
        text=system.text,
        answers=kind == "exp-vqa",
        licence=licence or system.licence,
        train={
            "kind": kind,
            "imported_from": source.name,
            "imported_digest": sha256_of(source),
            "language_model": Path(language_model).resolve().name,
            "language_model_from": "checkpoint" if own else "folder",
            "sizes": asdict(sizes),
        },
    )
    target = output or user_folder() / name
    facts = {"captioner": name, "kind": kind, "path": str(target), "licence": card.licence}
    card = write_folder(target, model, card, tokenizer, asking)
    log.info("captioner.imported", extra=facts)
    return card


def _check_free(name: str) -> None:
    check_name(name)
    if name in BUILT_IN:
        raise ConfigError(f"captioner name {name!r} means measured words; choose another with --name")
    if (user_folder() / f"{name}{SUFFIX}").exists():
        raise ConfigError(f"model name {name!r} belongs to an expression model; choose another with --name")
