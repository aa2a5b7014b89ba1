"""How text is searched for: beams, limits and penalties, and which key-value cache holds what was computed.

On a GPU a cache of fixed size lets the decoding step be compiled once; on a CPU it makes every step attend to the
whole of it, so there the cache grows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from streamfer.captions.card import TextCard
from streamfer.captions.text import PromptText
from streamfer.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Settings of one search.

    Attributes:
        max_new_tokens: longest text.
        min_new_tokens: shortest text.
        num_beams: 1 is greedy.
        repetition_penalty: divides the logits of tokens already written.
        length_penalty: exponent of the length in a beam's score.
        static_cache: key-value cache of fixed size.
        compiled: compile the decoding step (with ``static_cache``, on a GPU); the first call takes minutes.
    """

    max_new_tokens: int
    min_new_tokens: int = 1
    num_beams: int = 5
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    static_cache: bool = False
    compiled: bool = False

    @classmethod
    def of(cls, card: TextCard, device: str = "cpu") -> SearchSettings:
        """Return a card's settings, with the cache that suits the device."""
        return cls(
            max_new_tokens=card.max_new_tokens,
            min_new_tokens=card.min_new_tokens,
            num_beams=card.num_beams,
            repetition_penalty=card.repetition_penalty,
            length_penalty=card.length_penalty,
            static_cache=device.startswith("cuda"),
        )

    def changed(self, *, num_beams: int | None = None, max_new_tokens: int | None = None) -> SearchSettings:
        """Return settings with what is given replaced.

        Raises:
            ConfigError: fewer than one beam or token.
        """
        for name, value in (("num_beams", num_beams), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected at least 1")
        tokens = max_new_tokens or self.max_new_tokens
        return replace(
            self,
            num_beams=num_beams or self.num_beams,
            max_new_tokens=tokens,
            min_new_tokens=min(self.min_new_tokens, tokens),
        )

    def generate(
        self, language_model: Any, embeds_BNH: torch.Tensor, mask_BN: torch.Tensor, text: PromptText
    ) -> torch.Tensor:
        """Continue rows of embeddings (B, N, H), padded on the left; return the new ids only (B, new)."""
        import transformers
        from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

        settings: Any = transformers.GenerationConfig

        processors = LogitsProcessorList()
        if self.repetition_penalty != 1:
            # Made by ``generate`` itself (5.23), it spares as many of a row's first words as the row has padding, as
            # if embeddings were among the ids: a text would depend on its batch.
            processors.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        # Padding is no word: a row of the vocabulary that was added for it has no trained logit.
        suppressed = [text.pad_id] if text.pad_id != text.end_id else None
        config = settings(
            do_sample=False,
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            length_penalty=self.length_penalty,
            eos_token_id=text.end_id,
            pad_token_id=text.pad_id,
            bos_token_id=text.start_ids[0] if text.start_ids else None,
            suppress_tokens=suppressed,
            cache_implementation="static" if self.static_cache else None,
            disable_compile=not self.compiled,
            use_cache=True,
        )
        ids: torch.Tensor = language_model.generate(
            inputs_embeds=embeds_BNH, attention_mask=mask_BN, generation_config=config, logits_processor=processors
        )
        return ids
