"""Loading a captioner: one of streamfer's folders, or any image-text model of transformers in its place."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from streamfer.captions.architecture import model_class
from streamfer.captions.attention import transformers_attention
from streamfer.captions.card import CaptionCard
from streamfer.captions.folder import (
    QUESTION_TOKENIZER,
    TOKENIZER,
    check_files,
    quiet_transformers,
    read_card,
)
from streamfer.captions.protocol import Captioner
from streamfer.captions.query_captioner import QueryCaptioner
from streamfer.captions.registry import find_captioner
from streamfer.captions.search import SearchSettings
from streamfer.captions.text import PromptText
from streamfer.captions.text_model import TextModel, is_text_model
from streamfer.captions.transformers_captioner import load_stand_in
from streamfer.captions.writers import first_line
from streamfer.errors import CheckpointError, ConfigError, UnknownModelError
from streamfer.models.attention import AttentionChoice, choose_attention
from streamfer.models.precision import DTYPES, Precision, choose_device, choose_precision

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
    allow_download: bool = False,
) -> Captioner:
    """Load a captioner.

    Args:
        name_or_path: a name that ``list_captioners`` returns or a captioner's folder; else a folder of any
            image-text model of transformers, or such a model's name on the Hugging Face Hub (``org/name``).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        attention: of image encoder and Q-Former: ``auto``, ``torch`` or ``triton``.
        num_beams: beams of the search; the model's own number where not given.
        max_new_tokens: longest text; the model's own limit where not given.
        batch: largest number of frames or texts computed at once.
        allow_download: let a model of the Hub be downloaded; otherwise only what is on this machine is used.

    Raises:
        UnknownModelError: no such captioner.
        CheckpointError: damaged or incomplete files.
        DeviceError: the device is absent, or cannot run the attention asked for.
        ConfigError: a setting is not a value it can have.
    """
    if batch < 1:
        raise ConfigError(f"batch is {batch}; expected at least 1")
    chosen_device = choose_device(device)
    chosen_precision = choose_precision(precision, chosen_device.device)
    chosen_attention = choose_attention(attention, chosen_device.device)
    options: dict[str, Any] = {"device": chosen_device.device, "precision": chosen_precision.precision, "batch": batch}
    try:
        found = find_captioner(name_or_path)
    except UnknownModelError:
        if not _foreign(name_or_path):
            raise
        captioner: Captioner = load_stand_in(
            name_or_path,
            **options,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            allow_download=allow_download,
        )
    else:
        card = read_card(found)
        search = SearchSettings.of(card.text, chosen_device.device).changed(
            num_beams=num_beams, max_new_tokens=max_new_tokens
        )
        captioner = _load_folder(found, card, chosen_attention, search=search, **options)
    _announce(captioner, chosen_device.reason, chosen_precision.reason, chosen_attention)
    return captioner


def load_any(name_or_path: str, **options: Any) -> Captioner | TextModel:
    """Load a captioner, or a model of text alone (a folder, or a GGUF file), which puts measurements into words.

    Arguments and errors are those of :func:`load_captioner`.
    """
    path = Path(name_or_path)
    if not is_text_model(path):
        return load_captioner(name_or_path, **options)
    device = choose_device(options.get("device", "auto")).device
    precision = choose_precision(options.get("precision", "auto"), device).precision
    return TextModel(path, device=device, dtype=DTYPES[precision], precision=precision)


def _foreign(name_or_path: str) -> bool:
    """Tell whether this may be a model of transformers: its folder, or ``org/name`` on the Hub."""
    if (Path(name_or_path) / "config.json").is_file():
        return True
    parts = name_or_path.split("/")
    return len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~") and not Path(name_or_path).exists()


def _load_folder(
    folder: Path, card: CaptionCard, attention: AttentionChoice, *, precision: Precision, **options: Any
) -> QueryCaptioner:
    check_files(folder, card)
    text = PromptText(card.text, *read_tokenizers(folder, card))
    model = read_model(folder, card, attention, dtype=DTYPES[precision])
    return QueryCaptioner(model, card, text, precision=precision, **options)


def read_tokenizers(folder: Path, card: CaptionCard) -> tuple[Any, Any | None]:
    """Return the tokenizers of language model and Q-Former (None for BLIP-2) of a captioner's folder.

    Raises:
        CheckpointError: one is missing or damaged.
    """
    from transformers import AutoTokenizer

    names = [TOKENIZER, QUESTION_TOKENIZER] if card.architecture == "instructblip" else [TOKENIZER]
    found: list[Any] = []
    for name in names:
        try:
            with quiet_transformers():
                found.append(AutoTokenizer.from_pretrained(folder / name, local_files_only=True))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder / name}: no tokenizer that can be read ({first_line(error)})") from error
    return found[0], (found[1] if len(found) > 1 else None)


def read_model(folder: Path, card: CaptionCard, attention: AttentionChoice, *, dtype: Any) -> Any:
    """Return transformers' model of a captioner's folder on the CPU, every tensor accounted for.

    Raises:
        CheckpointError: files that are damaged, or hold other tensors than the configuration asks for.
    """
    from safetensors import SafetensorError

    # The language model decodes under causal masks, which the kernels leave to PyTorch anyway.
    name = transformers_attention(attention)
    try:
        with quiet_transformers():
            model, report = model_class(card.architecture).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=dtype,
                attn_implementation={"vision_config": name, "qformer_config": name, "text_config": "sdpa"},
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be loaded ({first_line(error)})") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(key) for key in report[kind]):
            raise CheckpointError(f"{folder}: {kind.replace('_', ' ')}: {names[0]!r} ({len(names)} in all)")
    # Defaults of the language model's authors (sampling, lengths) must not mix with the card's.
    import transformers

    settings: Any = transformers.GenerationConfig
    model.language_model.generation_config = settings()
    return model


def _announce(captioner: Captioner, device_reason: str, precision_reason: str, attention: AttentionChoice) -> None:
    info = captioner.info
    log.info(
        "captioner.loaded",
        extra={
            "captioner": info.name,
            "licence": info.licence,
            "digest": info.digest[:12],
            "device": info.device,
            "device_reason": device_reason,
            "precision": info.precision,
            "precision_reason": precision_reason,
            "attention": attention.implementation,
            "attention_reason": attention.reason,
        },
    )
