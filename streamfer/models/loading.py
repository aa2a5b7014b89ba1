"""From a name or a weights file to an expression model that runs."""

from __future__ import annotations

import logging
from typing import Any

from streamfer.files import sha256_of
from streamfer.models.attention import choose_attention
from streamfer.models.inference import DferClipModel
from streamfer.models.precision import choose_device, choose_precision
from streamfer.models.registry import DEFAULT_MODEL, find_model
from streamfer.models.weights import read_weights

log = logging.getLogger(__name__)


def load_model(
    name_or_path: str = DEFAULT_MODEL,
    *,
    device: str = "auto",
    precision: str = "auto",
    attention: str = "auto",
) -> DferClipModel:
    """Load one expression model by name or from a weights file.

    What a whole run needs besides (detectors, tracker, captioner) is loaded by :mod:`streamfer.build`.

    Args:
        name_or_path: a name that :func:`streamfer.models.list_models` returns, or a path.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: of the image encoder: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        attention: of image encoder and temporal transformer: ``auto``, ``torch`` or ``triton``.

    Raises:
        UnknownModelError: no such model.
        CheckpointError: the file is damaged or foreign.
        DeviceError: the device is absent, or cannot run the attention asked for.
        ConfigError: device, precision or attention is not a value they can have.
    """
    path = find_model(str(name_or_path))
    where = choose_device(device)
    exact = choose_precision(precision, where.device)
    choice = choose_attention(attention, where.device)
    network, card = read_weights(path)
    runs: dict[str, Any] = {"device": where.device, "precision": exact.precision, "attention": choice}
    model = DferClipModel(network, card, digest=sha256_of(path), **runs)
    reasons = {"device_reason": where.reason, "precision_reason": exact.reason, "attention_reason": choice.reason}
    told = {"model": card.name, "licence": card.licence, "digest": model.info.digest[:12], "forms": model.forms}
    log.info("model.loaded", extra={**told, **runs, "attention": choice.implementation, **reasons})
    return model
