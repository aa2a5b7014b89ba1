"""The one stage of Exp-VQA: questions and answers in, a captioner's folder that answers out.

Loop, checkpoints and data are those of :mod:`streamfer_train.exp_blip`.
"""

from __future__ import annotations

from pathlib import Path

from streamfer.captions.card import EXP_VQA_TEXT, TextCard
from streamfer_train.captions.files import Pair
from streamfer_train.exp_blip import build
from streamfer_train.exp_blip.data import read_questions
from streamfer_train.exp_blip.stages import WritingStep, begin, write_about
from streamfer_train.exp_vqa.config import ExpVqaConfig
from streamfer_train.recipes.checkpoint import LAST
from streamfer_train.recipes.processes import joined

RECIPE = "exp-vqa"
"""Name of the recipe, in its checkpoints."""

FOLDER = "training"


def text_card(config: ExpVqaConfig) -> TextCard:
    """Return tokens, limits and search of the model that comes out."""
    limits = {"max_question_tokens", "max_new_tokens", "num_beams", "repetition_penalty"}
    return EXP_VQA_TEXT.model_copy(update=config.training.model_dump(include=limits))


def build_writer(config: ExpVqaConfig) -> build.Writer:
    """Return the model that learns, with its text; a UserError where weights, tokenizers or limits do not fit."""
    asked, start = config.training, build.start_tensors(config.model)
    tokens = asked.max_question_tokens + asked.max_answer_tokens + 1
    return build.build_writer("instructblip", config, asked, text_card(config), start, tokens)


def train(config: ExpVqaConfig, *, resume: bool = False) -> Path | None:
    """Train, or go on; returns the folder of the model, in the leading process.

    A UserError: lists, weights, settings or the folder cannot be used, or the training ends (``Trainer.run``).
    """
    step = the_step(config)
    with joined(config.run.device, config.run.backend) as world:
        begin(config, () if resume else (step.folder / LAST,), world)
        if not (resume and step.done()):
            pairs = pairs_of(config)
            write_about(config.run.out, RECIPE, pairs, world)
            step.train(pairs, world, resume=resume)
        return step.captioner if world.leads else None


def the_step(config: ExpVqaConfig) -> WritingStep:
    asked, name = config.training, RECIPE if config.training.vit == "trained" else "exp-vqa-fz"
    folder, limit = config.run.out / FOLDER, asked.max_answer_tokens
    return WritingStep(config, asked, limit, lambda: build_writer(config), folder, RECIPE, RECIPE, name)


def pairs_of(config: ExpVqaConfig) -> list[Pair]:
    """Return the questions with their answers; a ConfigError where a list or picture is missing."""
    data = config.data
    return read_questions(data.questions, data.text, "data.questions", clean=data.clean_questions)


def check(config: ExpVqaConfig) -> str:
    """Check lists, weights and settings without training or writing anything; returns what would be trained."""
    pairs, asked = pairs_of(config), config.training
    lines = [
        f"{len(pairs):,} questions about {len({pair.image for pair in pairs}):,} pictures",
        f"{len(pairs) // asked.batch:,} steps an epoch, {asked.epochs} epochs",
    ]
    return "\n".join([*lines, *the_step(config).check(pairs, "answers longer than training.max_answer_tokens")])
