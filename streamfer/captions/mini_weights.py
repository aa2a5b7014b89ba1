"""The built-in captioner's file: safetensors with encoder, network and vocabulary, whose metadata carries its card.

Tensors ``encoder.*`` (image encoder and action head of the expression model it was trained on) and ``network.*``;
fp16 on disk is welcome, in memory everything is fp32 until a precision is chosen.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from streamfer.captions.mini_network import MiniNetwork, MiniSizes
from streamfer.captions.mini_vocabulary import MiniVocabulary
from streamfer.captions.patches import FrozenEncoder
from streamfer.errors import CheckpointError
from streamfer.files import replacing
from streamfer.models.card import CAPTIONER_KEY, SUFFIX, ModelCard, read_metadata
from streamfer.models.weights import check_tensors

FORMAT: Literal[1] = 1
#: Tied to the decoder's word embeddings.
_TIED = "network.decoder.lm_head.weight"


class MiniCard(BaseModel):
    """Everything beside the tensors.

    Attributes:
        format: version of this document.
        name: what ``load_captioner`` calls it.
        sizes: of the network, as `MiniSizes`.
        taps: layers of the image encoder whose maps are read.
        encoder: card of the expression model whose encoder this is, as its weights file has it.
        vocabulary: the tokenizer, as the `tokenizers` library writes it.
        units: action units that it can mention, in reading order.
        emotions: emotions that it can name.
        opposed: pairs of units that it never mentions together.
        thresholds: probability from which each unit is mentioned, 0 to 1.
        question: what is asked when nobody asks.
        max_question_tokens: longest question; a longer one is refused.
        max_new_tokens: longest text.
        licence: licence of the weights in plain words.
        train: where the weights come from and what they are worth, plain JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    name: str
    sizes: dict[str, int]
    taps: tuple[str, ...]
    encoder: str
    vocabulary: str
    units: tuple[int, ...] = Field(min_length=1)
    emotions: tuple[str, ...] = Field(min_length=1)
    opposed: tuple[tuple[int, int], ...] = ()
    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    question: str
    max_question_tokens: int = Field(48, ge=1)
    max_new_tokens: int = Field(112, ge=1)
    licence: str
    train: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_a_unit(self) -> Self:
        if len(self.thresholds) != len(self.units):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.units)} units; expected one each")
        return self

    def network_sizes(self) -> MiniSizes:
        """Return the sizes.

        Raises:
            CheckpointError: a size is unknown, missing or out of range.
        """
        try:
            return MiniSizes(**self.sizes)
        except TypeError as error:
            raise CheckpointError(f"sizes: {error}") from error

    def words(self) -> MiniVocabulary:
        """Return the vocabulary.

        Raises:
            CheckpointError: it cannot be read, or has another size than the network.
        """
        words = MiniVocabulary.from_json(self.vocabulary, self.units, self.emotions)
        if len(words) != self.sizes.get("vocabulary"):
            raise CheckpointError(f"vocabulary: {len(words)} tokens; the network has {self.sizes.get('vocabulary')}")
        return words


def is_mini(path: Path) -> bool:
    """Tell whether a file holds a built-in captioner."""
    try:
        return path.suffix == SUFFIX and path.is_file() and CAPTIONER_KEY in read_metadata(path)
    except CheckpointError:
        return False


def read_mini_card(path: Path) -> MiniCard:
    """Read only the card.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    metadata = read_metadata(path)
    if CAPTIONER_KEY not in metadata:
        raise CheckpointError(f"{path}: holds no captioner; make one with 'streamfer train mini-captions export'")
    try:
        return MiniCard.model_validate_json(metadata[CAPTIONER_KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the card"
        raise CheckpointError(f"{path}: {where}: {first['msg']}") from error


def write_mini(path: Path, network: MiniNetwork, encoder: FrozenEncoder, card: MiniCard, *, half: bool = True) -> None:
    """Write a captioner's file, whole or not at all; fp16 unless `half` is false.

    Raises:
        CheckpointError: the card has other sizes than the network.
        OutputError: the file cannot be written.
    """
    if asdict(network.sizes) != card.sizes or encoder.taps != card.taps:
        raise CheckpointError(f"{path}: the card describes another network than the one to be written")
    tensors = {
        f"{part}.{name}": (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for part, module in (("encoder", encoder), ("network", network))
        for name, tensor in module.state_dict().items()
        if f"{part}.{name}" != _TIED
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={CAPTIONER_KEY: card.model_dump_json()})


def read_mini(path: Path) -> tuple[MiniNetwork, FrozenEncoder, MiniCard, ModelCard]:
    """Read a captioner on the CPU, fp32, in evaluation mode: network, encoder, its card and the encoder's.

    Raises:
        CheckpointError: no captioner's file, damaged, or tensors that do not fit the card.
    """
    card = read_mini_card(path)
    try:
        seen = ModelCard.from_json(card.encoder)
        encoder = FrozenEncoder(seen.config, card.taps)
        network = MiniNetwork(card.network_sizes(), encoder.layout)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    parts = {"encoder": encoder, "network": network}
    expected = {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
        if f"{part}.{name}" != _TIED
    }
    try:
        with safe_open(path, framework="pt") as stream:
            found = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - a handle
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({error})") from error
    check_tensors(expected, found, str(path))
    with torch.no_grad():
        for name, tensor in found.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{path}: tensor {name!r} holds values that are not finite")
            expected[name].copy_(tensor)
    return network.requires_grad_(False).eval(), encoder, card, seen
