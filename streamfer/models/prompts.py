"""Learned prompts: context vectors around the frozen tokens of each class's description (after CoOp).

Shape suffixes: C classes, K context vectors, L tokens of a prompt, W width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import nn

from streamfer.errors import CheckpointError, ConfigError

Position = Literal["end", "middle", "front"]
POSITIONS: tuple[Position, ...] = get_args(Position)


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """Form of the prompts; the defaults are those of the authors' scripts."""

    contexts: int = 8  #: learned vectors in a prompt (K)
    class_specific: bool = True  #: own vectors for each class (C, K, W); shared (K, W) otherwise
    position: Position = "end"  #: where the description stands relative to the vectors

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise ConfigError(f"prompt.position is {self.position!r}; expected one of {', '.join(POSITIONS)}")
        if self.contexts < 1:
            raise ConfigError(f"prompt.contexts is {self.contexts}; expected at least 1")


@cache
def clip_tokenizer() -> Any:
    """Return CLIP's byte-pair tokenizer, the vocabulary that open_clip packages (49,408 tokens)."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def tokenize_prompts(descriptions: Sequence[str], contexts: int, context_length: int = 77) -> torch.Tensor:
    """Return int64 (C, L) ids of "X X ... X description": one placeholder for each learned vector.

    Raises:
        ConfigError: a description does not fit beside the context vectors.
    """
    tokenizer = clip_tokenizer()
    ids_CL = torch.zeros(len(descriptions), context_length, dtype=torch.int64)
    for row, description in enumerate(descriptions):
        words = tokenizer.encode(" ".join(["X"] * contexts + [description]))
        if len(words) + 2 > context_length:
            raise ConfigError(
                f"description {description!r} with {contexts} context vectors takes {len(words) + 2} tokens; "
                f"the text tower reads {context_length}: shorten it"
            )
        full = [tokenizer.sot_token_id, *words, tokenizer.eot_token_id]
        ids_CL[row, : len(full)] = torch.tensor(full)
    return ids_CL


class PromptLearner(nn.Module):
    """Context vectors and frozen token embeddings (CLIP's), joined into prompts.

    The start token's embedding and everything after the context (description, end token, padding) are buffers
    named as in the authors' checkpoints. Only ``ctx`` is learned, from N(0, 0.02).
    """

    token_prefix: torch.Tensor
    token_suffix: torch.Tensor
    eot_C: torch.Tensor

    def __init__(self, config: PromptConfig, token_ids_CL: torch.Tensor, token_embedding_VW: torch.Tensor) -> None:
        """Build prompts from ids as :func:`tokenize_prompts` makes them, the end token's the largest of its row."""
        super().__init__()
        self.config = config
        embedded_CLW = token_embedding_VW.detach()[token_ids_CL]
        classes, _, width = embedded_CLW.shape
        shape = (classes, config.contexts, width) if config.class_specific else (config.contexts, width)
        self.ctx = nn.Parameter(0.02 * torch.randn(shape))
        self.register_buffer("token_prefix", embedded_CLW[:, :1].clone())
        self.register_buffer("token_suffix", embedded_CLW[:, 1 + config.contexts :].clone())
        self.register_buffer("eot_C", token_ids_CL.argmax(dim=-1), persistent=False)
        self.description_lengths = tuple(int(eot) - 1 - config.contexts for eot in self.eot_C)
        if min(self.description_lengths) < 1:
            raise CheckpointError("prompt: a class has no description token between its context and its end")

    def forward(self) -> torch.Tensor:
        """Return the prompts as token embeddings (C, L, W)."""
        ctx_CKW = self.ctx if self.config.class_specific else self.ctx.expand(len(self.token_prefix), -1, -1)
        if self.config.position == "end":
            return torch.cat([self.token_prefix, ctx_CKW, self.token_suffix], dim=1)
        before = self.config.contexts // 2 if self.config.position == "middle" else 0
        parts = zip(self.token_prefix, ctx_CKW, self.token_suffix, self.description_lengths, strict=True)
        rows = [
            torch.cat([prefix, ctx[:before], suffix[:length], ctx[before:], suffix[length:]])
            for prefix, ctx, suffix, length in parts
        ]
        return torch.stack(rows)
