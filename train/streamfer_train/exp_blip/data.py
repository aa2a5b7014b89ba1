"""Captioned and questioned pictures as batches: views are a pure function of (seed, epoch, index).

Captions are cleaned, cut at a limit that is counted, and become rows of token ids.

Shape suffixes: B pairs, S image side, L tokens.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from streamfer.captions.text import PromptText
from streamfer.errors import ConfigError, SourceUnreadableError
from streamfer_train.captions.files import Pair, read_answers, read_captions
from streamfer_train.exp_blip.augment import augmented, squashed
from streamfer_train.exp_blip.config import AugmentationConfig, CaptionFile, TextConfig
from streamfer_train.recipes.loading import Batch, Draw

#: Pixels uint8 (3, S, S), with the pair.
Items = Sequence[tuple[Tensor, Pair]]
_DROPPED = re.compile(r"[!\"()*#:;~]")
_Reader = Callable[[Path, Path], list[Pair]]


def read_pairs(
    sources: Sequence[CaptionFile], text: TextConfig, what: str, read: _Reader = read_captions
) -> list[Pair]:
    """Read and clean lists of captions (of questions, by ``read``); a ConfigError: no list, or a picture is missing."""
    if not sources:
        raise ConfigError(f"{what} names no list; add one with file and images")
    pairs = [
        replace(pair, image=source.images / pair.image, text=cleaned(pair.text, text))
        for source in sources
        for pair in read(source.file, source.images)
    ]
    if empty := sum(not pair.text for pair in pairs):
        raise ConfigError(f"{what}: {empty} captions are empty once cleaned; correct them")
    return pairs


def read_questions(sources: Sequence[CaptionFile], text: TextConfig, what: str, *, clean: bool = False) -> list[Pair]:
    """Read question lists as :func:`read_pairs` does; questions are cleaned with ``clean`` alone."""
    asked = text if clean else TextConfig(lowercase=False)
    pairs = read_pairs(sources, text, what, read_answers)
    return [replace(pair, question=cleaned(pair.question, asked)) for pair in pairs]


def read_picture(path: Path) -> Tensor:
    """Return a picture as uint8 RGB (3, H, W); a SourceUnreadableError where none can be decoded."""
    try:
        with Image.open(path) as picture:
            return pil_to_tensor(picture.convert("RGB"))  # type: ignore[no-any-return]
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise SourceUnreadableError(f"{path}: no picture that can be read; leave it out of the list") from error


class PairDataset(Dataset[tuple[Tensor, Pair]]):
    """Pictures by (epoch, index): one random view each, or the whole picture without augmentation."""

    def __init__(self, pairs: Sequence[Pair], size: int, augmentation: AugmentationConfig | None, seed: int) -> None:
        self.pairs, self.size, self.augmentation, self.seed = tuple(pairs), size, augmentation, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Pair]:
        """Return pixels uint8 (3, S, S) and the pair."""
        pair = self.pairs[draw.index]
        picture = read_picture(pair.image)
        if self.augmentation is None:
            return squashed(picture, self.size), pair
        rng = random.Random(f"{self.seed}.{draw.epoch}.{draw.index}")
        return augmented(picture, self.size, self.augmentation, rng), pair


def caption_batch(items: Items, words: WordReader) -> Batch:
    """Return a batch of the first step: ``pixels``, ``ids``, ``mask`` of the Q-Former's words, ``key`` of the text."""
    ids_BL, mask_BL = words([pair.text for _, pair in items])
    keys = torch.tensor([text_key(pair.text) for _, pair in items])
    return {"pixels": torch.stack([pixels for pixels, _ in items]), "ids": ids_BL, "mask": mask_BL, "key": keys}


def answer_batch(items: Items, text: PromptText, limit: int, learn_start: bool = False) -> Batch:
    """Return one for the language model: ``pixels``, rows ``ids``, ``mask``, ``targets``, and the question's words."""
    rows = [written_row(text, pair.question, pair.text, limit)[0] for _, pair in items]
    ids_BL, mask_BL, targets_BL = padded(rows, text.pad_id, learn_start=learn_start)
    batch = {"pixels": torch.stack([pixels for pixels, _ in items])}
    batch |= {"ids": ids_BL, "mask": mask_BL, "targets": targets_BL}
    if text.question_tokenizer is not None:
        asked, seen = text.question_ids([pair.question for _, pair in items])
        batch |= {"question_ids": asked, "question_mask": seen}
    return batch


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

    def cuts(self, texts: Iterable[str]) -> int:
        """Return how many texts are longer than the limit."""
        return sum(len(self.tokenizer(text)["input_ids"]) > self.limit for text in texts)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids and mask (B, L); texts beyond the limit lose words before ``[SEP]``."""
        found = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.limit, return_tensors="pt")
        return found["input_ids"], found["attention_mask"]
