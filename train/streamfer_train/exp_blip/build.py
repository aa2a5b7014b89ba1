"""Learners from configurations: sizes, where the weights come from, what is frozen, and in which number format."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamfer.captions.architecture import QuerySizes, build_model
from streamfer.captions.card import Architecture, TextCard
from streamfer.captions.loading import read_language_model, read_word_tokenizer
from streamfer.captions.text import PromptText
from streamfer.errors import ConfigError
from streamfer.models.precision import DTYPES
from streamfer.models.weights import check_tensors
from streamfer_train.exp_blip import layout
from streamfer_train.exp_blip.caption_learner import CaptionLearner, check_room
from streamfer_train.exp_blip.config import CaptionerConfig, ModelConfig, OptimiserConfig, RuntimeConfig, StepOneConfig
from streamfer_train.exp_blip.data import WordReader
from streamfer_train.exp_blip.query_learner import QueryLearner
from streamfer_train.exp_blip.training import choose_trained

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Writer:
    """A captioner in training, and the text it is fed with."""

    learner: CaptionLearner
    text: PromptText


def build_query_learner(
    model: ModelConfig, step: StepOneConfig, runtime: RuntimeConfig, seed: int
) -> tuple[QueryLearner, WordReader]:
    """Return the first step's model and its reader of words, frozen and stored as configured.

    Raises:
        ConfigError: sizes or limits that do not fit each other.
        CheckpointError: weights or a tokenizer that cannot be read, or do not fit the sizes.
    """
    sizes = model.sizes
    if step.max_text_tokens > sizes.positions:
        raise ConfigError(f"step1.max_text_tokens is {step.max_text_tokens}; the Q-Former has {sizes.positions} places")
    tokenizer = read_word_tokenizer(model.tokenizer, sizes.vocabulary)
    torch.manual_seed(seed)
    learner = QueryLearner(
        sizes, step, projection=model.projection, pad_id=tokenizer.pad_token_id, dec_id=tokenizer.bos_token_id
    )
    _fill(learner, *start_tensors(model))
    _prepare(learner, learner.vision_model, step, runtime)
    if runtime.checkpointing:
        recompute(learner.qformer)
    return learner, WordReader(tokenizer, step.max_text_tokens)


def build_writer(
    architecture: Architecture,
    config: CaptionerConfig,
    step: OptimiserConfig,
    card: TextCard,
    start: tuple[Mapping[str, Tensor], str],
    text_tokens: int,
    *,
    dropout: bool = False,
) -> Writer:
    """Return a captioner that learns to write, frozen and stored as configured.

    Its first weights are ``start``, as :func:`start_tensors` returns them; rows have ``text_tokens`` at most.

    Raises:
        ConfigError: texts that are too long for the language model.
        CheckpointError: weights or a tokenizer that cannot be read, or do not fit the sizes.
    """
    model, runtime, sizes = config.model, config.runtime, config.model.sizes
    language, tokenizer = read_language_model(model.language_model, {}, str(model.language_model))
    asking = read_word_tokenizer(model.tokenizer, sizes.vocabulary) if architecture == "instructblip" else None
    torch.manual_seed(config.seed)
    network = _around(architecture, sizes, language)
    check_room(network, text_tokens)
    _fill(network, *start)
    network.language_model.to(DTYPES[runtime.precision])
    learner = CaptionLearner(network, architecture, dropout=dropout)
    _prepare(learner, network.vision_model, step, runtime)
    if runtime.checkpointing:
        recompute(network.qformer)
        recompute(network.language_model)
    return Writer(learner, PromptText(card, tokenizer, asking))


def _around(architecture: Architecture, sizes: QuerySizes, language: Any) -> Any:
    """Return a model with random weights around a language model that has its own."""
    shallow = copy.deepcopy(language.config)
    shallow.num_hidden_layers = 1  # a stand-in that is replaced at once, so that billions of weights are not drawn
    network: Any = build_model(architecture, sizes, shallow)
    network.language_model = language
    network.config.text_config = language.config
    return network


def start_tensors(model: ModelConfig) -> tuple[dict[str, Tensor], str]:
    """Return the weights that a training starts from, in LAVIS's names, and where they come from."""
    tensors = layout.read_start(model.start) if model.start is not None else {}
    if model.vision is not None:
        tensors |= layout.read_vision(model.vision)
    return tensors, " and ".join(str(path) for path in (model.start, model.vision) if path is not None)


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    if not tensors:
        log.info("exp_blip.random_start", extra={"reason": "model.start names no checkpoint"})
        return
    alone = "query_tokens" not in tensors
    lacking = layout.fill(
        network, tensors, where, optional=("query_tokens", "qformer.", "vision_model.post_layernorm.") if alone else ()
    )
    drawn = sorted({name.split(".")[0] for name in lacking})
    log.info("exp_blip.start", extra={"path": where, "drawn_at_random": drawn})


def _prepare(learner: nn.Module, vision: nn.Module, step: OptimiserConfig, runtime: RuntimeConfig) -> None:
    choose_trained(learner, step)
    if runtime.precision != "fp32":
        for weight in learner.parameters():  # those that do not learn are stored in the coarser type
            if not weight.requires_grad and weight.is_floating_point():
                weight.data = weight.data.to(DTYPES[runtime.precision])
    if runtime.checkpointing and step.vit == "trained":
        recompute(vision)


def load_trained(learner: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put what a step has learned into a learner that was built alike, checked by :func:`check_tensors`."""
    trained = {name: weight for name, weight in learner.named_parameters() if weight.requires_grad}
    check_tensors(trained, tensors, where)
    learner.load_state_dict(tensors, strict=False)


def describe(learner: nn.Module) -> str:
    """Return how many weights learn, by part, for `--check`."""
    counts: dict[str, list[int]] = {}
    for name, weight in learner.named_parameters():
        part = name.removeprefix("model.").split(".")[0]
        entry = counts.setdefault(part, [0, 0])
        entry[0 if weight.requires_grad else 1] += weight.numel()
    return "\n".join(
        f"  {part}: {learn:,} weights learn, {rest:,} are frozen" for part, (learn, rest) in counts.items()
    )


def existing(path: Path, what: str) -> Path:
    """Return a path that is there; a ConfigError says by ``what`` how to make it where it is not."""
    if not path.exists():
        raise ConfigError(f"{path}: not there; {what}")
    return path


def recompute(part: Any) -> None:
    """Let a model of transformers recompute its activations in the backward pass."""
    # Renamed within transformers 5; the older name warns in the newer releases.
    newer = getattr(part, "activation_checkpointing_enable", None)
    (newer or part.gradient_checkpointing_enable)()
