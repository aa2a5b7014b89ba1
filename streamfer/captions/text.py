"""Text on its way into and out of a captioner: prompts to token ids, ids to text, nothing cut silently.

Shape suffixes: B rows, L tokens of a question.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from streamfer.captions.card import TextCard
from streamfer.errors import CheckpointError, ConfigError


class PromptText:
    """Puts questions to a language model's tokenizer (and a Q-Former's), and reads what was generated.

    Prompt and answer are tokenised apart, without the tokenizer's own special tokens: the start token comes from
    the card, so that a prompt does not depend on a tokenizer's defaults.
    """

    def __init__(self, card: TextCard, tokenizer: Any, question_tokenizer: Any | None = None) -> None:
        self.card, self.tokenizer, self.question_tokenizer = card, tokenizer, question_tokenizer
        self.start_ids = [self._single(card.start_token, "start_token")] if card.start_token else []
        self.end_id = self._single(card.end_token, "end_token")
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.end_id if pad is None else int(pad)
        self.yes_ids = [self._answer(text) for text in card.yes]
        self.no_ids = [self._answer(text) for text in card.no]

    def _single(self, token: str, field: str) -> int:
        known = self.tokenizer.get_vocab().get(token)
        ids = [known] if known is not None else self._encode(token)
        if len(ids) != 1:
            raise CheckpointError(f"text.{field} {token!r} is {len(ids)} tokens of the language model; expected one")
        return int(ids[0])

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _answer(self, text: str) -> list[int]:
        ids = self._encode(text)
        if not ids:
            raise CheckpointError(f"answer {text!r} has no token in the language model's vocabulary")
        return ids

    def prompt_ids(self, question: str) -> list[int]:
        """Return the tokens that follow the query tokens.

        Raises:
            ConfigError: the question is longer than the card's limit, or holds a control token.
        """
        if not question:
            return list(self.start_ids)
        readers = [one for one in (self.tokenizer, self.question_tokenizer) if one is not None]
        return [*self.start_ids, *question_tokens(question, self.card.max_question_tokens, *readers)]

    def question_ids(self, questions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask (B, L) of questions as the Q-Former reads them, padded on the right.

        Raises:
            ConfigError: a question is longer than the card's limit.
            CheckpointError: the model came without the Q-Former's tokenizer.
        """
        if self.question_tokenizer is None:
            raise CheckpointError("the model has no question tokenizer; import it again with --question-tokenizer")
        rows = self.question_tokenizer(list(questions), padding=True, padding_side="right", return_tensors="pt")
        for length, question in zip(rows["attention_mask"].sum(dim=1).tolist(), questions, strict=True):
            check_length(length, self.card.max_question_tokens, question)
        return rows["input_ids"], rows["attention_mask"]

    def read(self, ids: Sequence[int]) -> str:
        """Decode generated ids up to the end token."""
        kept = itertools.takewhile(lambda number: number != self.end_id, ids)
        ids = [number for number in kept if number != self.pad_id]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def question_tokens(question: str, limit: int, tokenizer: Any, *others: Any) -> list[int]:
    """Return a question's tokens; ConfigError where they exceed ``limit``, or one is a control token (``</s>``)."""
    for one in (tokenizer, *others):
        added = {str(token) for token in one.added_tokens_decoder.values() if token.special}
        for token in sorted(added | set(one.all_special_tokens)):
            if token in question:
                raise ConfigError(f"the question holds the model's control token {token!r}; leave it out")
    ids = list(tokenizer(question, add_special_tokens=False)["input_ids"])
    check_length(len(ids), limit, question)
    return ids


def check_length(length: int, limit: int, question: str) -> None:
    """Refuse (ConfigError) a question of more tokens than a model reads."""
    if length > limit:
        raise ConfigError(
            f"the question has {length} tokens and the model reads {limit} at most; shorten it: {question[:40]!r}..."
        )
