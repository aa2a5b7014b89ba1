"""The attention switch for models of transformers: BLIP-2's vision tower and Q-Former, InstructBLIP's likewise.

transformers looks attention up by name. :func:`transformers_attention` gives the name to load a model with
(``attn_implementation=...``), registering the kernels under their own the first time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from streamfer.models.attention import LONGEST, AttentionChoice

_NAME = "streamfer_triton"


def transformers_attention(choice: AttentionChoice) -> str:
    """Return the value of ``attn_implementation`` for a choice: ``sdpa``, or a name registered here."""
    if choice.implementation == "torch":
        return "sdpa"
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _attend)
    # Masks come in PyTorch's form, and not at all where everything may be seen.
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    return _NAME


def _attend(
    module: nn.Module,
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
