"""The stages that train a captioner: first and second step over one list of captions, and the folder that comes out.

Each stage may be a command of its own, into the same folder; docs/captions.md lists its files.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save as save_tensors

from streamfer.captions.card import EXP_BLIP_TEXT, CaptionCard, TextCard, clip_pixels, face_crop
from streamfer.captions.folder import is_captioner, write_folder
from streamfer.files import write_text, write_whole
from streamfer_train.captions.files import Pair
from streamfer_train.exp_blip import build, layout
from streamfer_train.exp_blip.config import MAY_CHANGE, CaptionFile, ExpBlipConfig, WritingConfig
from streamfer_train.exp_blip.data import WordReader, answer_batch, caption_batch, read_pairs, written_row
from streamfer_train.exp_blip.training import ExpTask, trainer_of
from streamfer_train.recipes.checkpoint import LAST, Checkpoint, finished
from streamfer_train.recipes.processes import ALONE, ProcessGroup, joined
from streamfer_train.recipes.run_folder import claim, origin

log = logging.getLogger(__name__)

RECIPE = "exp-blip"
"""Name of the recipe, in its checkpoints."""

Stage = Literal["au", "emotion", "expression"]
Variant = Literal["exp", "mix", "cat"]
WEIGHTS, CAPTIONER, RUN = "weights.safetensors", "captioner", "run.json"
#: Name of each variant's list and folder: Exp-BLIP, and the ablations.
LISTS: dict[Variant, str] = {"exp": "fused.json", "mix": "mix.json", "cat": "cat.json"}
FOLDERS: dict[Variant, str] = {"exp": "expression", "mix": "mix", "cat": "cat"}


def folder_of(out: Path, stage: Stage, variant: Variant = "exp") -> Path:
    return out / (FOLDERS[variant] if stage == "expression" else stage)


def train_stage(config: ExpBlipConfig, stage: Stage, variant: Variant = "exp", *, resume: bool = False) -> Path | None:
    """Train one captioner through both steps; returns its folder, in the leading process.

    A UserError: lists, weights, settings or the folder cannot be used, or the training ends (``Trainer.run``).
    """
    folder = folder_of(config.run.out, stage, variant)
    with joined(config.run.device, config.run.backend) as world:
        started = () if resume else (folder / "step1" / LAST,)
        begin(config, started, world)
        pairs = pairs_of(config, stage, variant)
        write_about(folder, f"{RECIPE} {folder.name}", pairs, world)
        weights = folder / "step1" / WEIGHTS
        if not (resume and weights.exists()):
            _first_step(config, pairs, folder / "step1", world, resume=resume)
        second = second_step(config, folder, weights)
        if not (resume and second.done()):
            second.train(pairs, world, resume=resume)
        return second.captioner if world.leads else None


def begin(config: Any, started: Sequence[Path], world: ProcessGroup) -> None:
    """Claim the run's folder for a configuration; ``started`` as :func:`claim` takes it."""
    world.share(lambda: claim(config.run.out, config.model_dump(mode="json"), MAY_CHANGE, started))


def write_about(folder: Path, recipe: str, pairs: list[Pair], world: ProcessGroup) -> None:
    """Write down where the numbers of a run come from."""
    about = {"recipe": recipe, "pairs": len(pairs), **origin(world, "transformers")}
    world.share(lambda: write_text(folder / RUN, json.dumps(about, indent=2) + "\n"))


def pairs_of(config: ExpBlipConfig, stage: Stage, variant: Variant) -> list[Pair]:
    """Return the captions of a stage; a ConfigError where there is no list, or the stage pseudo has to be run first."""
    if stage != "expression":
        return read_pairs(getattr(config.data, stage), config.data.text, f"data.{stage}")
    chosen = config.data.expression
    if not chosen:
        written = config.run.out / "pseudo" / LISTS[variant]
        build.existing(written, "run --stage pseudo first, or name lists in data.expression")
        chosen = (CaptionFile(file=written, images=image_root(config)),)
    return read_pairs(chosen, config.data.text, "data.expression")


def image_root(config: ExpBlipConfig) -> Path:
    """Return the deepest folder that holds the pictures of all lists of actions and emotions."""
    roots = [source.images.absolute() for source in (*config.data.au, *config.data.emotion)]
    return Path(os.path.commonpath(roots)) if roots else Path()


def _first_step(config: ExpBlipConfig, pairs: list[Pair], folder: Path, world: ProcessGroup, *, resume: bool) -> None:
    task, words = _first_task(config, pairs, world)
    _say_cut(words.cuts({pair.text for pair in pairs}), len(pairs), config.step1.max_text_tokens, world)
    if config.step1.accumulate > 1 and world.leads:
        log.warning("exp_blip.negatives", extra={"said": negatives(config, world.size)})
    trainer_of(config, RECIPE, f"{folder.parent.name}.step1", folder, task).run(resume=resume)
    world.share(lambda: _write_weights(config, folder))


def _first_task(config: ExpBlipConfig, pairs: list[Pair], world: ProcessGroup) -> tuple[ExpTask, WordReader]:
    learner, words = build.build_query_learner(config.model, config.step1, config.runtime, config.seed)
    return ExpTask(config, config.step1, learner, pairs, partial(caption_batch, words=words), world), words


def negatives(config: ExpBlipConfig, processes: int) -> str:
    """Return how many pairs the contrast of the first step sees at once: micro-batches do not see each other."""
    step = config.step1
    seen = step.batch // step.accumulate
    return (
        f"step1 contrasts each pair with {seen - 1} others: batch {step.batch} in {step.accumulate} micro-batches, "
        f"over {processes} process(es); only a batch without accumulate contrasts all {step.batch}"
    )


def _write_weights(config: ExpBlipConfig, folder: Path) -> None:
    """Write what the first step has learned as LAVIS names it, so that any reader of its checkpoints takes the file."""
    plain, _ = build.build_query_learner(config.model, config.step1, config.runtime, config.seed)
    build.load_trained(plain, Checkpoint.load(folder / LAST, RECIPE).model, str(folder / LAST))
    contents = save_tensors(layout.to_lavis(plain.state_dict()), {"format": "pt"})
    write_whole(folder / WEIGHTS, lambda stream: stream.write(contents))


def text_card(config: ExpBlipConfig) -> TextCard:
    """Return tokens and limits of the captioner that comes out."""
    limits = {"max_new_tokens": config.step2.max_new_tokens, "num_beams": config.step2.num_beams}
    return EXP_BLIP_TEXT.model_copy(update=limits)


def _writer(config: ExpBlipConfig, weights: Path | None) -> build.Writer:
    """Return the second step's model, from the first step's weights; without them (to check) from the start's."""
    tensors = build.start_tensors(config.model)[0] if weights is None else layout.read_start(weights)
    if weights is not None and config.model.start is not None:
        # A start of the second step knows the projection, which the first step has not.
        projection = {name: one for name, one in layout.read_start(config.model.start).items() if "opt_proj" in name}
        tensors = {**projection, **tensors}
    asked, start = config.step2, (tensors, str(weights))
    tokens, dropout = asked.max_text_tokens + 1, asked.language_dropout
    return build.build_writer("blip-2", config, asked, text_card(config), start, tokens, dropout=dropout)


def second_step(config: ExpBlipConfig, folder: Path, weights: Path | None) -> WritingStep:
    """Return the second step of the stage in a folder, as :func:`_writer` takes ``weights``."""
    asked, name = config.step2, folder.name
    return WritingStep(
        config, asked, asked.max_text_tokens, lambda: _writer(config, weights), folder / "step2", RECIPE,
        f"{name}.step2", f"{name}-blip",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class WritingStep:
    """The step in which a language model learns to write: of Exp-BLIP the second, of Exp-VQA the only one."""

    config: Any
    asked: WritingConfig
    limit: int  #: tokens of a text; more are cut, counted and said
    make: Callable[[], build.Writer]  #: builds the model at its start
    folder: Path
    recipe: str
    name: str  #: in messages
    model: str  #: name of the captioner that comes out

    @property
    def captioner(self) -> Path:
        """The folder that ``load_captioner`` takes."""
        return self.folder.parent / CAPTIONER

    def done(self) -> bool:
        """Whether it has been trained and exported."""
        return is_captioner(self.captioner) and finished(self.folder / LAST, self.recipe, self.asked.epochs)

    def task(self, pairs: list[Pair], writer: build.Writer, world: ProcessGroup) -> ExpTask:
        learn_start = getattr(self.asked, "learn_start", False)
        collate = partial(answer_batch, text=writer.text, limit=self.limit, learn_start=learn_start)
        return ExpTask(self.config, self.asked, writer.learner, pairs, collate, world)

    def train(self, pairs: list[Pair], world: ProcessGroup, *, resume: bool) -> None:
        """Train on the pairs' texts and export the captioner."""
        writer = self.make()
        _say_cut(rows_cut(pairs, writer, self.limit), len(pairs), self.limit, world)
        task = self.task(pairs, writer, world)
        trainer_of(self.config, self.recipe, self.name, self.folder, task).run(resume=resume)
        world.share(self._export)

    def check(self, pairs: list[Pair], what: str) -> list[str]:
        """Return how many texts (``what``) would be cut, and which weights learn; raises what training would."""
        writer = self.make()
        self.task(pairs, writer, ALONE)
        return [f"{what} ({self.limit}): {rows_cut(pairs, writer, self.limit)}", build.describe(writer.learner)]

    def _export(self) -> None:
        writer, config, where = self.make(), self.config, self.folder / LAST
        found = Checkpoint.load(where, self.recipe)
        build.load_trained(writer.learner, found.model, str(where))
        size, text = config.model.sizes.image, writer.text
        card = CaptionCard(
            name=self.model,
            architecture=writer.learner.architecture,
            pixels=clip_pixels(size),
            crop=face_crop(size),
            text=text.card,
            answers=writer.learner.architecture == "instructblip",
            licence=config.licence,
            train={
                "kind": self.recipe,
                "language_model": config.model.language_model.name,
                "epochs_extended_from": found.progress.extended,
                "configuration": config.model_dump(mode="json", exclude={"run", "log"}),
            },
        )
        written = write_folder(self.captioner, writer.learner.model, card, text.tokenizer, text.question_tokenizer)
        log.info("exp.captioner_written", extra={"path": str(self.captioner), "digest": written.digest[:12]})


def rows_cut(pairs: list[Pair], writer: build.Writer, limit: int) -> int:
    """Return how many different texts the language model's rows cut; questions that are too long are refused."""
    different = {(pair.question, pair.text) for pair in pairs}
    return sum(written_row(writer.text, question, text, limit)[1] for question, text in different)


def _say_cut(cut: int, of: int, limit: int, world: ProcessGroup) -> None:
    if cut and world.leads:
        extra = {"texts": cut, "pairs": of, "limit": limit, "way_out": "raise the step's limit of tokens"}
        log.warning("exp.captions_cut", extra=extra)


def check(config: ExpBlipConfig, stage: Stage, variant: Variant) -> str:
    """Return what both steps would train, after raising what either would before it trains; nothing is written."""
    pairs = pairs_of(config, stage, variant)
    task, words = _first_task(config, pairs, ALONE)
    texts = {pair.text for pair in pairs}
    lines = [f"{len(pairs):,} pairs, {len(texts):,} different captions"]
    for name, asked in (("step1", config.step1), ("step2", config.step2)):
        lines.append(f"{name}: {len(pairs) // asked.batch:,} steps an epoch, {asked.epochs} epochs")
    if config.step1.accumulate > 1:
        lines.append(negatives(config, 1))
    lines.append(f"captions longer than step1.max_text_tokens ({words.limit}): {words.cuts(texts)}")
    lines.append(build.describe(task.learner))
    del task
    second = second_step(config, folder_of(config.run.out, stage, variant), None)
    return "\n".join([*lines, *second.check(pairs, "captions longer than step2.max_text_tokens")])
