"""A random built-in captioner, small enough for any test, whose words vary with what it is shown."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tiny_models import BASIC, tiny_card, tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from streamfer.captions.mini import MiniCaptioner
from streamfer.captions.mini_network import MiniNetwork, MiniSizes
from streamfer.captions.mini_vocabulary import MiniVocabulary, control_tokens
from streamfer.captions.mini_weights import MiniCard, write_mini
from streamfer.captions.patches import FrozenEncoder
from streamfer.models.sizes import VisionConfig

UNITS = (1, 4, 6, 12, 24, 25)
EMOTIONS = ("joy", "gloom", "calm")
SENTENCES = (
    "The lip corners are raised.",
    "The brows are lowered and the lips are parted.",
    "This is consistent with joy, gloom or calm.",
    "Is the person smiling?",
    "Describe the face.",
)


def vocabulary(units: tuple[int, ...] = UNITS) -> MiniVocabulary:
    """A vocabulary of a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True) for token in control_tokens(units, EMOTIONS)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 2, trainer)
    return MiniVocabulary(tokenizer, units, EMOTIONS)


def parts(seed: int = 0, vision: VisionConfig = BASIC, **card: Any) -> tuple[MiniNetwork, FrozenEncoder, MiniCard, Any]:
    """Network, encoder, card, and the encoder's card; ``card`` changes fields of the captioner's."""
    model = tiny_model(vision=vision, actions=("AU01", "AU12"), seed=seed)
    seen = tiny_card(model)
    encoder = FrozenEncoder.of(model)
    words = vocabulary()
    sizes = MiniSizes(len(words), 3, 16, 1, 2, 16, 2, 2, 2, positions=112)
    torch.manual_seed(seed)
    network = MiniNetwork(sizes, encoder.layout)
    for name, weight in network.named_parameters():
        if weight.ndim > 1 and "norm" not in name:
            nn.init.normal_(weight, std=0.4)
    fields: dict[str, Any] = {
        "name": "tiny-caption",
        "sizes": asdict(sizes),
        "taps": encoder.taps,
        "encoder": seen.to_json(),
        "vocabulary": words.tokenizer.to_str(),
        "units": UNITS,
        "emotions": EMOTIONS,
        "opposed": ((24, 25),),
        "thresholds": (0.3,) * len(UNITS),
        "question": "Describe the face.",
        "max_question_tokens": 24,
        "max_new_tokens": 8,
        "licence": "CC0: random numbers",
    }
    return network.eval(), encoder, MiniCard(**{**fields, **card}), seen


def captioner(seed: int = 0, **card: Any) -> MiniCaptioner:
    """A captioner that was never on disk."""
    return MiniCaptioner(*parts(seed, **card))


def write(path: Path, seed: int = 0, *, half: bool = True, **card: Any) -> Path:
    """A captioner's file."""
    network, encoder, described, _ = parts(seed, **{"name": path.stem, **card})
    write_mini(path, network, encoder, described, half=half)
    return path
