"""Loading a captioner: one of streamfer's folders, or any image-text or text model of transformers in its place."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from streamfer.captions.architecture import model_class
from streamfer.captions.card import CaptionCard
from streamfer.captions.folder import (
    QUESTION_TOKENIZER,
    TOKENIZER,
    check_files,
    find_captioner,
    quiet_transformers,
    read_card,
    reading,
)
from streamfer.captions.protocol import Captioner
from streamfer.captions.query_captioner import QueryCaptioner
from streamfer.captions.text import PromptText
from streamfer.captions.transformers_models import TextModel, is_text_model, load_stand_in
from streamfer.errors import CheckpointError, ConfigError, SourceNotFoundError, UnknownModelError
from streamfer.models.attention import LONGEST, AttentionChoice, choose_attention
from streamfer.models.precision import DTYPES, choose_device, choose_precision

_EMBEDDINGS = "embed_tokens.weight"
#: transformers looks attention up by name; the kernels' is registered the first time that it is asked for.
_TRITON = "streamfer_triton"

log = logging.getLogger(__name__)


def load_captioner(
    name_or_path: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    attention: str = "auto",
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    batch: int = 16,
) -> Captioner:
    """Load a captioner; nothing is downloaded.

    Args:
        name_or_path: a name that ``list_captioners`` returns or a captioner's folder; else a folder of any
            image-text model of transformers, or such a model's name on the Hub where it is on this machine.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        attention: of image encoder and Q-Former: ``auto``, ``torch`` or ``triton``.
        num_beams, max_new_tokens: of the search; the model's own where not given.
        batch: largest number of frames or texts computed at once.

    Raises:
        UnknownModelError: no such captioner.
        CheckpointError: damaged or incomplete files.
        DeviceError: the device is absent, or cannot run the attention asked for.
        ConfigError: a setting is not a value it can have.
    """
    limits = {"num_beams": (num_beams, 64), "max_new_tokens": (max_new_tokens, 65_536), "batch": (batch, 65_536)}
    for setting, (value, most) in limits.items():
        if value is not None and not 1 <= value <= most:
            raise ConfigError(f"{setting} is {value}; expected at least 1, at most {most}")
    on = choose_device(device)
    numbers = choose_precision(precision, on.device)
    chosen = choose_attention(attention, on.device)
    options: dict[str, Any] = {"device": on.device, "precision": numbers.precision, "batch": batch,
                               "num_beams": num_beams, "max_new_tokens": max_new_tokens}  # fmt: skip
    try:
        folder = find_captioner(name_or_path)
    except UnknownModelError:
        if not _foreign(name_or_path):
            raise
        captioner: Captioner = load_stand_in(name_or_path, **options)
    else:
        card = read_card(folder)
        text = read_text(folder, card)
        model = read_model(folder, card, chosen, dtype=DTYPES[numbers.precision])
        captioner = QueryCaptioner(model, card, text, **options)
    facts = {"captioner": captioner.info.name, "licence": captioner.info.licence, "digest": captioner.info.digest[:12]}
    facts |= {"device": on.device, "device_reason": on.reason, "attention": chosen.implementation}
    facts |= {"precision": numbers.precision, "precision_reason": numbers.reason, "attention_reason": chosen.reason}
    log.info("captioner.loaded", extra=facts)
    return captioner


def load_any(name_or_path: str, **options: Any) -> Captioner | TextModel:
    """As :func:`load_captioner`, or a model of text alone (a folder, or a GGUF file) for measurements into words."""
    path = Path(name_or_path)
    if not is_text_model(path):
        return load_captioner(name_or_path, **options)
    device = choose_device(options.get("device", "auto")).device
    precision = choose_precision(options.get("precision", "auto"), device).precision
    return TextModel(path, device=device, precision=precision)


def _foreign(name_or_path: str) -> bool:
    """Tell whether this may be a model of transformers: its folder, or ``org/name`` on the Hub."""
    if os.path.isfile(Path(name_or_path) / "config.json"):
        return True
    parts = name_or_path.split("/")
    return len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~") and not os.path.exists(name_or_path)


def read_text(folder: Path, card: CaptionCard) -> PromptText:
    """Return what puts questions to the model of a captioner's folder (CheckpointError: a tokenizer is missing)."""
    names = [TOKENIZER, QUESTION_TOKENIZER] if card.architecture == "instructblip" else [TOKENIZER]
    if missing := [name for name in names if not (folder / name).is_dir()]:
        raise CheckpointError(f"{folder / missing[0]}: no tokenizer; copy the folder again")
    return PromptText(card.text, *(read_tokenizer(folder / name, "captioner") for name in names))


def read_model(folder: Path, card: CaptionCard, attention: AttentionChoice, *, dtype: Any) -> Any:
    """Return transformers' model of a captioner's folder on the CPU, every tensor accounted for (CheckpointError)."""
    check_files(folder, card)
    # The language model decodes under causal masks, which the kernels leave to PyTorch anyway.
    name = transformers_attention(attention)
    with reading(f"captioner {str(folder)!r}", f"{folder}: the weights cannot be loaded") as transformers:
        model, report = model_class(card.architecture).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation={"vision_config": name, "qformer_config": name, "text_config": "sdpa"},
            output_loading_info=True,
        )
    check_loaded(report, str(folder))
    model.vision_model.post_layernorm.eps = card.vision_norm_eps
    # Defaults of the language model's authors (sampling, lengths) must not mix with the card's.
    model.language_model.generation_config = transformers.GenerationConfig()
    return model


def read_tokenizer(folder: Path, what: str) -> Any:
    """Return the tokenizer in a folder (SourceNotFoundError: no folder; CheckpointError: no tokenizer in it)."""
    if not folder.is_dir():
        raise SourceNotFoundError(f"{folder}: no such folder; give the {what}'s, as transformers saves it")
    with reading(f"the tokenizer of a {what}", f"{folder}: no tokenizer of a {what} in it") as transformers:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def read_word_tokenizer(folder: Path, rows: int) -> Any:
    """Return the Q-Former's tokenizer with LAVIS's ``[DEC]``, for embeddings of so many rows.

    Raises:
        SourceNotFoundError: no such folder.
        CheckpointError: no tokenizer in it, more words than rows, or no token to pad with.
    """
    tokenizer = read_tokenizer(folder, "question tokenizer")
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    if len(tokenizer) > rows or tokenizer.pad_token_id is None:
        pad = "none" if tokenizer.pad_token_id is None else "one"
        raise CheckpointError(
            f"{folder}: {len(tokenizer)} words with [DEC] and {pad} to pad with, for {rows} rows of embeddings; is it "
            "bert-base-uncased's?"
        )
    return tokenizer


def read_language_model(folder: Path, own: Mapping[str, torch.Tensor], where: str) -> tuple[Any, Any]:
    """Return a causal language model with weights, and its tokenizer.

    A tokenizer without a token to pad with gets one, as LAVIS gives Vicuna's; its row of the embeddings is zero. The
    checkpoint's ``own`` tensors, all of the language model's or none, decide the vocabulary's size; without them the
    weights are the folder's.

    Raises:
        SourceNotFoundError: no such folder.
        CheckpointError: no configuration or weights that can be read, or tensors that do not fit; the first is named.
    """
    purpose = "a frozen language model"
    tokenizer = read_tokenizer(folder, "language model")
    with reading(purpose, f"{folder}: no language model of transformers in it") as transformers:
        config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    grown = tokenizer.pad_token_id is None and tokenizer.add_special_tokens({"pad_token": "[PAD]"}) > 0
    place = where if own else str(folder)
    if own:
        table = next((tensor for name, tensor in own.items() if name.endswith(_EMBEDDINGS)), None)
        if table is None:
            raise CheckpointError(f"{where}: the language model's tensor '{_EMBEDDINGS}' is missing; is it complete?")
        config.vocab_size = table.shape[0]
        source: dict[str, Any] = {"pretrained_model_name_or_path": None, "config": config, "state_dict": dict(own)}
    else:
        source = {"pretrained_model_name_or_path": folder, "local_files_only": True}
    with reading(purpose, f"{place}: the language model cannot be loaded"):
        model, report = kind.from_pretrained(**source, dtype="auto", output_loading_info=True)
    check_loaded(report, f"{place}: the language model", strangers=bool(own))
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        if own and not grown:
            raise CheckpointError(
                f"{where}: the language model knows {rows} tokens and the tokenizer of {folder} {len(tokenizer)}; "
                "is it another model's folder?"
            )
        with quiet_transformers():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.weight[rows:] = 0
    return model, tokenizer


def check_loaded(report: Mapping[str, Any], where: str, *, strangers: bool = True) -> None:
    """Refuse a model of which transformers reports tensors that were missing or did not fit (CheckpointError)."""
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")[: 3 if strangers else 2]:
        if names := sorted(str(key) for key in report[kind]):
            raise CheckpointError(f"{where}: {kind.replace('_', ' ')}: {names[0]!r} ({len(names)} in all)")


def transformers_attention(choice: AttentionChoice) -> str:
    """Return the value of transformers' ``attn_implementation`` for a choice: ``sdpa``, or a name registered here."""
    if choice.implementation == "torch":
        return "sdpa"
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_TRITON, _attend)
    # Masks come in PyTorch's form, and not at all where everything may be seen.
    AttentionMaskInterface.register(_TRITON, sdpa_mask)
    return _TRITON


def _attend(
    module: torch.nn.Module,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers asks: (B, H, N, E) in, (B, N, H, E) out; masks, dropout and grouped heads stay with PyTorch."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from streamfer_kernels import attention, supports_head

    extras = {name for name, given in options.items() if given is not None and given is not False}
    plain = attention_mask is None and not dropout and not getattr(module, "is_causal", False) and not extras
    fits = query.shape[:2] == key.shape[:2] and supports_head(query.shape[-1])
    if not plain or not fits or max(query.shape[2], key.shape[2]) > LONGEST:
        mixed, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return mixed, None
    mixed = attention(query, key, value, scale=scaling, backend="triton")
    return mixed.transpose(1, 2), None
