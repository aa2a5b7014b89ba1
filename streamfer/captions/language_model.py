"""The frozen language model of a captioner: from a local folder of transformers, or out of the checkpoint itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from streamfer.captions.folder import quiet_transformers
from streamfer.captions.text import with_pad_token
from streamfer.captions.writers import first_line
from streamfer.errors import CheckpointError, SourceNotFoundError
from streamfer.models.checkpoints import read_state_dict

_EMBEDDINGS = "embed_tokens.weight"
_HEAD = "lm_head.weight"


def read_tokenizer(folder: Path, what: str) -> Any:
    """Return the tokenizer in a folder.

    Raises:
        SourceNotFoundError: no such folder.
        CheckpointError: no tokenizer in it.
    """
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise SourceNotFoundError(f"{folder}: no such folder; give the {what}'s, as transformers saves it")
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: no tokenizer of a {what} in it ({first_line(error)})") from error


def read_language_model(folder: Path, own: Mapping[str, torch.Tensor], tokenizer: Any, where: str) -> Any:
    """Return a causal language model with weights, big enough for its tokenizer.

    A tokenizer without a token to pad with gets one, as LAVIS gives Vicuna's; its row of the embeddings is zero.

    Args:
        folder: configuration, tokenizer and (where ``own`` is empty) weights: safetensors, or ``.bin`` files, which
            are read without running anything in them.
        own: tensors of the checkpoint, all of the language model's or none.
        tokenizer: read from the folder; may be given a token.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: no configuration or weights that can be read, or tensors that do not fit; the first is named.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: no language model of transformers in it ({first_line(error)})") from error
    grown = with_pad_token(tokenizer)
    if own:
        model = _filled(config, own, where)
    elif any(folder.glob("*.safetensors")):
        model = _pretrained(folder)
    else:
        model = _filled(config, _bin_tensors(folder), str(folder))
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        if own and not grown:
            raise CheckpointError(
                f"{where}: the language model knows {rows} tokens and the tokenizer of {folder} {len(tokenizer)}; "
                "is it another model's folder?"
            )
        _grow(model, len(tokenizer))
    return model


def _grow(model: Any, rows: int) -> None:
    before = model.get_input_embeddings().weight.shape[0]
    with quiet_transformers():
        model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            table.weight[before:] = 0


def _pretrained(folder: Path) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    models: Any = AutoModelForCausalLM
    try:
        with quiet_transformers():
            model, report = models.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype="auto", output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the language model cannot be loaded ({first_line(error)})") from error
    for kind in ("missing_keys", "mismatched_keys"):
        if names := sorted(str(key) for key in report[kind]):
            raise CheckpointError(f"{folder}: {kind.replace('_', ' ')}: {names[0]!r} ({len(names)} in all)")
    return model


def _bin_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of ``pytorch_model*.bin``, under the names of the model with its head."""
    files = sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(
            f"{folder}: no weights of a language model (neither *.safetensors nor pytorch_model*.bin)"
        )
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        tensors.update(read_state_dict(path))
    if any(name.startswith("model.") for name in tensors):
        return tensors
    # Saved without the head's class, as the OPT models on the Hub are.
    return {name if name == _HEAD else f"model.{name}": tensor for name, tensor in tensors.items()}


def _filled(config: Any, tensors: Mapping[str, torch.Tensor], where: str) -> Any:
    """Return a model built around given tensors, which decide its vocabulary's size."""
    from transformers import AutoModelForCausalLM

    models: Any = AutoModelForCausalLM
    table = next((tensor for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS)), None)
    if table is None:
        raise CheckpointError(f"{where}: the language model's tensor '{_EMBEDDINGS}' is missing; is the file complete?")
    config.vocab_size = table.shape[0]
    with torch.device("meta"):
        model: Any = models.from_config(config)
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            if name == _HEAD and config.tie_word_embeddings:
                continue
            raise CheckpointError(f"{where}: the language model's tensor {name!r} is missing; is the file complete?")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: the language model's tensor {name!r} has shape {tuple(tensors[name].shape)}; "
                f"its configuration says {tuple(tensor.shape)}"
            )
    if extra := sorted(name for name in tensors if name not in expected and not name.endswith("inv_freq")):
        raise CheckpointError(f"{where}: the language model has no tensor {extra[0]!r} ({len(extra)} such in all)")
    model.load_state_dict({name: tensors[name] for name in expected if name in tensors}, strict=False, assign=True)
    model.tie_weights()
    return model
