"""The frozen language model of a captioner: from a local folder of transformers, or out of the checkpoint itself."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from streamfer.captions.folder import quiet_transformers
from streamfer.captions.protocol import first_line
from streamfer.captions.text import with_pad_token
from streamfer.errors import CheckpointError, SourceNotFoundError
from streamfer.extras import needs

_EMBEDDINGS = "embed_tokens.weight"


def read_tokenizer(folder: Path, what: str) -> Any:
    """Return the tokenizer in a folder.

    Raises:
        SourceNotFoundError: no such folder.
        CheckpointError: no tokenizer in it.
    """
    with needs("captions", f"the tokenizer of a {what}"):
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
        folder: configuration, tokenizer and (where ``own`` is empty) weights, read without running anything in them.
        own: tensors of the checkpoint, all of the language model's or none; they decide the vocabulary's size.
        tokenizer: read from the folder; may be given a token.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: no configuration or weights that can be read, or tensors that do not fit; the first is named.
    """
    from safetensors import SafetensorError
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    models: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = models[type(config)]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: no language model of transformers in it ({first_line(error)})") from error
    grown = with_pad_token(tokenizer)
    place = where if own else str(folder)
    if own:
        table = next((tensor for name, tensor in own.items() if name.endswith(_EMBEDDINGS)), None)
        if table is None:
            raise CheckpointError(f"{where}: the language model's tensor '{_EMBEDDINGS}' is missing; is it complete?")
        config.vocab_size = table.shape[0]
        own = {name: tensor for name, tensor in own.items() if not name.endswith("inv_freq")}
        source: dict[str, Any] = {"pretrained_model_name_or_path": None, "config": config, "state_dict": dict(own)}
    else:
        source = {"pretrained_model_name_or_path": folder, "local_files_only": True}
    try:
        with quiet_transformers():
            model, report = kind.from_pretrained(**source, dtype="auto", output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{place}: the language model cannot be loaded ({first_line(error)})") from error
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
    return model


def check_loaded(report: Mapping[str, Any], where: str, *, strangers: bool = True) -> None:
    """Refuse a model of which transformers reports tensors that were missing or did not fit.

    Raises:
        CheckpointError: the first is named.
    """
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")[: 3 if strangers else 2]:
        if names := sorted(str(key) for key in report[kind]):
            raise CheckpointError(f"{where}: {kind.replace('_', ' ')}: {names[0]!r} ({len(names)} in all)")
