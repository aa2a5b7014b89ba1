"""Import of Exp-BLIP's and Exp-VQA's checkpoints, which LAVIS wrote, from their bytes alone."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from streamfer.captions.architecture import build_model
from streamfer.captions.card import EXP_BLIP_TEXT, EXP_VQA_TEXT, CaptionCard, TextCard, clip_pixels, face_crop
from streamfer.captions.folder import write_folder
from streamfer.captions.language_model import read_language_model, read_tokenizer
from streamfer.captions.lavis import (
    ARCHITECTURES,
    Kind,
    kind_of,
    language_prefix,
    language_tensors,
    projection_width,
    read_sizes,
    translate,
)
from streamfer.captions.text import PromptText
from streamfer.captions.writers import BUILT_IN
from streamfer.errors import CheckpointError, ConfigError
from streamfer.files import sha256_of
from streamfer.models.card import SUFFIX
from streamfer.models.checkpoints import read_state_dict
from streamfer.models.registry import check_name, user_folder

log = logging.getLogger(__name__)

TEXTS: dict[Kind, TextCard] = {"exp-blip": EXP_BLIP_TEXT, "exp-vqa": EXP_VQA_TEXT}
_LICENCE = (
    "as the checkpoint's authors state (trained on datasets for research only); the language model's licence applies "
    "as well ({})"
)
LICENCES: dict[Kind, str] = {
    "exp-blip": _LICENCE.format("OPT: non-commercial research"),
    "exp-vqa": _LICENCE.format("Vicuna: LLaMA's, non-commercial"),
}


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
    tensors = read_state_dict(source)
    found = kind_of(tensors, where) if kind == "auto" else kind
    sizes = read_sizes(tensors, found, where)
    tokenizer = read_tokenizer(Path(language_model), "language model")
    asking = _question_tokenizer(found, question_tokenizer, sizes.vocabulary)
    own = language_tensors(tensors, found)
    decoder = read_language_model(Path(language_model), own, tokenizer, where)
    PromptText(TEXTS[found], tokenizer, asking)
    width = projection_width(tensors, found, where)
    if width != decoder.config.hidden_size:
        raise CheckpointError(
            f"{where}: tensor '{language_prefix(found)[:-6]}proj.weight' writes for a language model of width {width}; "
            f"{language_model} has {decoder.config.hidden_size}: give the folder of the model it was trained with"
        )
    with torch.device("meta"):
        model: Any = build_model(ARCHITECTURES[found], sizes, decoder.config)
    model.language_model = decoder
    model.load_state_dict(translate(model.state_dict(), tensors, found, where), strict=False, assign=True)
    card = CaptionCard(
        name=name,
        architecture=ARCHITECTURES[found],
        pixels=clip_pixels(sizes.image),
        crop=face_crop(sizes.image),
        text=TEXTS[found],
        answers=found == "exp-vqa",
        licence=licence or LICENCES[found],
        train={
            "kind": found,
            "imported_from": source.name,
            "imported_digest": sha256_of(source),
            "language_model": Path(language_model).resolve().name,
            "language_model_from": "checkpoint" if own else "folder",
            "sizes": asdict(sizes),
        },
    )
    target = output or user_folder() / name
    facts = {"captioner": name, "kind": found, "path": str(target), "licence": card.licence}
    card = write_folder(target, model, card, tokenizer, asking)
    log.info("captioner.imported", extra=facts)
    return card


def _check_free(name: str) -> None:
    check_name(name)
    if name in BUILT_IN:
        raise ConfigError(f"captioner name {name!r} means measured words; choose another with --name")
    if (user_folder() / f"{name}{SUFFIX}").exists():
        raise ConfigError(f"model name {name!r} belongs to an expression model; choose another with --name")


def _question_tokenizer(kind: Kind, folder: str | Path | None, vocabulary: int) -> Any | None:
    """Return the Q-Former's tokenizer with LAVIS's extra token; None for Exp-BLIP, whose Q-Former reads no text."""
    if kind == "exp-blip":
        return None
    if folder is None:
        raise ConfigError(
            "Exp-VQA's Q-Former reads the question with BERT's vocabulary: give the folder of bert-base-uncased with "
            "--question-tokenizer"
        )
    tokenizer = read_tokenizer(Path(folder), "question tokenizer")
    if tokenizer.bos_token is None and len(tokenizer) < vocabulary:
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    if len(tokenizer) > vocabulary:
        raise CheckpointError(
            f"{folder}: {len(tokenizer)} words; tensor 'Qformer.bert.embeddings.word_embeddings.weight' has "
            f"{vocabulary}: is it another tokenizer than bert-base-uncased?"
        )
    return tokenizer
