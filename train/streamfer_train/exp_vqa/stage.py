"""The one stage of Exp-VQA: questions and answers in, a captioner's folder that answers out.

    OUT/config.yaml      the configuration
    OUT/training/...     last.pt (what --resume goes on from), steps.csv, epochs.csv, tensorboard
    OUT/captioner/       what 'streamfer ask' loads

Loop, checkpoints and data are those of :mod:`streamfer_train.exp_blip`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from streamfer.captions.card import EXP_VQA_TEXT, TextCard
from streamfer.captions.folder import is_captioner
from streamfer.files import write_text
from streamfer_train.datasets.authors import Pair
from streamfer_train.exp_blip import build
from streamfer_train.exp_blip.config import MAY_CHANGE
from streamfer_train.exp_blip.data import AnswerCollate, PairDataset, read_questions
from streamfer_train.exp_blip.stages import CAPTIONER, RUN, export, rows_cut
from streamfer_train.exp_blip.training import ExpTask, trainer_of
from streamfer_train.exp_vqa.config import ExpVqaConfig
from streamfer_train.recipes.checkpoint import LAST, Checkpoint, finished
from streamfer_train.recipes.origin import origin
from streamfer_train.recipes.processes import joined
from streamfer_train.recipes.run_folder import claim

log = logging.getLogger(__name__)

RECIPE = "exp-vqa"
"""Name of the recipe, in its checkpoints."""

FOLDER = "training"


def text_card(config: ExpVqaConfig) -> TextCard:
    """Return tokens, limits and search of the model that comes out."""
    asked = config.training
    return EXP_VQA_TEXT.model_copy(
        update={
            "max_question_tokens": asked.max_question_tokens,
            "max_new_tokens": asked.max_new_tokens,
            "num_beams": asked.num_beams,
            "repetition_penalty": asked.repetition_penalty,
        }
    )


def build_writer(config: ExpVqaConfig) -> build.Writer:
    """Return the model that learns, with its text.

    Raises:
        UserError: weights, tokenizers or limits that do not fit.
    """
    asked = config.training
    tensors, where = build.start_tensors(config.model)
    return build.build_writer(
        "instructblip",
        config.model,
        asked,
        config.runtime,
        text_card(config),
        tensors=tensors,
        where=where,
        text_tokens=asked.max_question_tokens + asked.max_answer_tokens + 1,
        seed=config.seed,
    )


def train(config: ExpVqaConfig, *, resume: bool = False) -> Path | None:
    """Train, or go on; returns the folder of the model, in the leading process.

    Raises:
        UserError: lists, weights or settings that cannot be used; the folder holds another run; see also
            :meth:`~streamfer_train.recipes.trainer.Trainer.run`.
    """
    out = config.run.out
    folder = out / FOLDER
    with joined(config.run.device, config.run.backend) as world:
        started = () if resume else (folder / LAST,)
        world.share(lambda: claim(out, config.model_dump(mode="json"), MAY_CHANGE, started))
        if resume and is_captioner(out / CAPTIONER) and finished(folder / LAST, RECIPE, config.training.epochs):
            return out / CAPTIONER if world.leads else None
        pairs = pairs_of(config)
        about = {"recipe": RECIPE, "pairs": len(pairs), **origin(world, "transformers")}
        world.share(lambda: write_text(out / RUN, json.dumps(about, indent=2) + "\n"))
        writer, limit = build_writer(config), config.training.max_answer_tokens
        cut = rows_cut(pairs, writer, limit)
        if cut and world.leads:
            log.warning(
                "exp.answers_cut", extra={"texts": cut, "limit": limit, "way_out": "raise training.max_answer_tokens"}
            )
        dataset = PairDataset(pairs, config.model.sizes.image, config.augmentation, config.seed)
        task = ExpTask(config, config.training, writer.learner, dataset, AnswerCollate(writer.text, limit), world)
        trainer_of(config, RECIPE, RECIPE, folder, task).run(resume=resume)
        world.share(lambda: _export(config))
        return out / CAPTIONER if world.leads else None


def _export(config: ExpVqaConfig) -> None:
    plain, where = build_writer(config), config.run.out / FOLDER / LAST
    found = Checkpoint.load(where, RECIPE)
    build.load_trained(plain.learner, found.model, str(where))
    name = RECIPE if config.training.vit == "trained" else "exp-vqa-fz"
    export(config.run.out / CAPTIONER, plain, name, config, found.progress.extended, answers=True)


def pairs_of(config: ExpVqaConfig) -> list[Pair]:
    """Return the questions with their answers.

    Raises:
        ConfigError: a list or picture is missing.
        RecordError: an entry lacks a field.
    """
    data = config.data
    return read_questions(data.questions, data.text, "data.questions", clean=data.clean_questions)


def check(config: ExpVqaConfig) -> str:
    """Check lists, weights and settings without training or writing anything; returns what would be trained."""
    pairs, writer, asked = pairs_of(config), build_writer(config), config.training
    return "\n".join(
        [
            f"{len(pairs):,} questions about {len({pair.image for pair in pairs}):,} pictures",
            f"{len(pairs) // asked.batch:,} steps an epoch, {asked.epochs} epochs",
            f"answers longer than training.max_answer_tokens ({asked.max_answer_tokens}): "
            f"{rows_cut(pairs, writer, asked.max_answer_tokens)}",
            build.describe(writer.learner),
        ]
    )
