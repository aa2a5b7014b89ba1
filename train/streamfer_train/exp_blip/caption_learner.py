"""The second step's model, and Exp-VQA's: transformers' BLIP-2 or InstructBLIP, with the loss on what is written.

Shape suffixes: B pairs, S image side, P and W of picture features, Q queries, E width of the Q-Former, H width of the
language model, L tokens of text, V its vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

from streamfer.captions.card import CLIP_MEAN, CLIP_STD, Architecture
from streamfer.captions.query_captioner import query_states
from streamfer.errors import ConfigError


class CaptionLearner(nn.Module):
    """A captioner that learns to write; the language model only passes gradients on."""

    def __init__(self, model: Any, architecture: Architecture, *, dropout: bool = False) -> None:
        """Take over a model of transformers; the frozen language model's dropout ends here without ``dropout``."""
        super().__init__()
        self.model = model
        self.architecture = architecture
        if not dropout:
            without_dropout(model.language_model)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``total``, the mean cross-entropy of the tokens to be written (queries, question and padding not).

        Args:
            batch: ``pixels`` uint8 (B, 3, S, S), ``ids``, ``mask`` and ``targets`` (B, L), padded on the right, and
                ``question_ids`` with ``question_mask`` for InstructBLIP.
        """
        features_BPW = encode(self.model.vision_model, batch["pixels"])
        states_BQE = query_states(self.model, features_BPW, batch.get("question_ids"), batch.get("question_mask"))
        seen_BQH = self.model.language_projection(states_BQE)
        language = self.model.language_model
        words_BLH = language.get_input_embeddings()(batch["ids"])
        embeds_BNH = torch.cat([seen_BQH.to(words_BLH.dtype), words_BLH], dim=1)
        mask_BN = torch.cat([batch["mask"].new_ones(seen_BQH.shape[:2]), batch["mask"]], dim=1)
        length = batch["ids"].shape[1]
        # The last query already says which token comes first.
        output = language(inputs_embeds=embeds_BNH, attention_mask=mask_BN, use_cache=False, logits_to_keep=length + 1)
        logits_BLV = output.logits[:, -length - 1 : -1]
        loss = F.cross_entropy(logits_BLV.flatten(0, 1).float(), batch["targets"].flatten(), ignore_index=-100)
        return {"total": loss}


def check_room(model: Any, text_tokens: int) -> None:
    """Make sure that queries and the longest text fit into the language model; a ConfigError where they do not."""
    limit = getattr(model.language_model.config, "max_position_embeddings", None)
    needed = model.query_tokens.shape[1] + text_tokens
    if limit is not None and needed > limit:
        raise ConfigError(f"queries and text take {needed} tokens and the language model has {limit}; lower the limits")


def encode(vision_model: Any, pixels_B3SS: Tensor) -> Tensor:
    """Return features (B, P, W) of uint8 pixels; the last norm runs in its own type, which may be finer."""
    kind = vision_model.embeddings.patch_embedding.weight.dtype
    seen_B3SS = V.normalize(pixels_B3SS.float() / 255, list(CLIP_MEAN), list(CLIP_STD))
    hidden_BPW = vision_model.embeddings(seen_B3SS.to(kind))
    hidden_BPW = vision_model.encoder(inputs_embeds=hidden_BPW).last_hidden_state
    norm = vision_model.post_layernorm
    features_BPW: Tensor = norm(hidden_BPW.to(norm.weight.dtype))
    return features_BPW


def without_dropout(part: nn.Module) -> None:
    """Switch dropout off for good, whether it is a module or a number in a layer.

    A frozen language model has nothing to regularise; in training mode it may still recompute its activations.
    """
    for module in part.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
