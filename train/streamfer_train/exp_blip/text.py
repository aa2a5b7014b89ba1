"""Captions as the two steps read them: cleaned, cut at a limit that is counted, and as rows of token ids."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from streamfer.captions.text import PromptText
from streamfer_train.exp_blip.config import TextConfig

_DROPPED = re.compile(r"[!\"()*#:;~]")


def cleaned(text: str, config: TextConfig) -> str:
    """Return a caption as it is learned: one line, cleaned as configured.

    >>> cleaned("The FACE\\n shows: joy!", TextConfig(punctuation=False))
    'the face shows joy'
    """
    if config.lowercase:
        text = text.lower()
    if not config.punctuation:
        text = _DROPPED.sub(" ", text)
    words = text.split()
    return " ".join(words[: config.max_words])


def text_key(text: str) -> int:
    """Return a number (63 bits) that is equal for equal texts, in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


@dataclass(frozen=True, slots=True)
class Row:
    """What a language model learns from one pair: prompt, then what it has to write, its end token included."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def written_row(text: PromptText, prompt: str, answer: str, limit: int) -> tuple[Row, bool]:
    """Return the row of one pair, and whether the answer was cut; a cut answer has no end token.

    Raises:
        ConfigError: the prompt is longer than the model reads.
    """
    ids = list(text.tokenizer(answer, add_special_tokens=False)["input_ids"])
    whole = [*ids, text.end_id]
    return Row(tuple(text.prompt_ids(prompt)), tuple(whole[:limit])), len(whole) > limit


def padded(rows: Sequence[Row], pad_id: int, *, learn_start: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, mask and targets (B, L) of rows, padded on the right; -100 where nothing is to be learned.

    With ``learn_start`` a prompt of one token, which starts the text, is to be written too: so LAVIS trains OPT.
    """
    texts = [torch.tensor([*row.prompt, *row.answer]) for row in rows]
    targets = [text.clone() for text in texts]
    for row, target in zip(rows, targets, strict=True):
        if not (learn_start and len(row.prompt) == 1):
            target[: len(row.prompt)] = -100
    mask_BL = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
    ids_BL = pad_sequence(texts, batch_first=True, padding_value=pad_id)
    return ids_BL, mask_BL, pad_sequence(targets, batch_first=True, padding_value=-100)


class WordReader:
    """Captions as the Q-Former reads them: ``[CLS] words [SEP]``, padded on the right."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer, self.limit = tokenizer, limit

    def cut(self, text: str) -> bool:
        """Return whether a text is longer than the limit."""
        return len(self.tokenizer(text)["input_ids"]) > self.limit

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids and mask (B, L); texts beyond the limit lose words before ``[SEP]``."""
        found = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.limit, return_tensors="pt")
        return found["input_ids"], found["attention_mask"]
