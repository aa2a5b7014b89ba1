"""Stage `joint`: tower and final heads together, on photographs and rendered frames.

Photographs decide what an emotion looks like; renders bring the action units that no teacher has labelled, exact
intensities, and poses. Shape suffixes: B pictures, F rendered frames, C classes, A action units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamfer.models.card import digest_of
from streamfer.models.weights import check_tensors, read_weights
from streamfer_builtin.mini import augment, checkpoint, renders, sampling
from streamfer_builtin.mini.data import CLASSES, Corpus, Pictures
from streamfer_builtin.mini.fitting import fit
from streamfer_builtin.mini.networks import FIRST_CONVOLUTION, JointModel
from streamfer_builtin.mini.recipe import JointPart, Recipe, Sizes
from streamfer_builtin.mini.units import unit_loss
from streamfer_builtin.render.clips import RenderedClips
from streamfer_train.metrics.classification import report
from streamfer_train.recipes.processes import ALONE, ProcessGroup

log = structlog.get_logger(__name__)

CHECKPOINT = "joint.pt"


@dataclass(frozen=True, slots=True)
class JointBatch:
    """One batch.

    Attributes:
        images: float32 (B, 1, H, H).
        targets: float32 (B, C), probabilities of the emotions.
        weights: float32 (B,), what each picture's emotion counts.
        units: float32 (B, A), intensities 0-1, NaN where unknown.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    units: Tensor


@dataclass(frozen=True, slots=True)
class Lesson:
    """Pictures with what the stage teaches about each: target probabilities (N, C) and weight (N,)."""

    pictures: Pictures
    targets: Tensor
    weights: Tensor


class JointTask:
    """Batches, loss and validation of the stage."""

    name = "joint"

    def __init__(self, photographs: tuple[Lesson, ...], rendered: Lesson, corpus: Corpus, part: JointPart) -> None:
        self.photographs = photographs
        self.rendered = rendered
        self.corpus = corpus
        self.part = part
        self.steps = math.ceil(part.pictures / part.batch)
        self.side = augment.CROP

    def batches(self, epoch: int) -> Iterator[JointBatch]:
        """Yield batches of photographs and rendered frames in the recipe's shares."""
        part = self.part
        rng = torch.Generator().manual_seed(part.seed * 1000 + 700 + epoch)
        drawn = [(s, index.tensor_split(self.steps)) for s, index in self._draw(epoch, rng)]
        strength = augment.Strength().relaxed(part.strength * sampling.relaxation(epoch / part.epochs))
        for step in range(self.steps):
            self.side = sampling.side_at((epoch + step / self.steps) / part.epochs, part.small)
            batch = _batch([(s, chunks[step]) for s, chunks in drawn], strength, self.side, rng)
            yield mixed(batch, part.mixed, part.mix_reach, rng)

    def loss(self, model: JointModel, batch: JointBatch) -> Tensor:
        """Weighted cross-entropy with soft targets, plus that of the action units."""
        logits, units = model(batch.images)
        entropy = F.cross_entropy(logits, batch.targets, label_smoothing=self.part.smoothing, reduction="none")
        emotion = (entropy * batch.weights).sum() / batch.weights.sum().clamp(min=1e-6)
        return emotion + self.part.action_weight * unit_loss(units, batch.units)

    def watch(self, average: JointModel, *, last: bool) -> dict[str, float]:  # noqa: ARG002 - all is cheap here
        """Return accuracy and UAR on pictures that are as large as those the epoch ended with.

        Clear ones of FER2013 val by their votes, all by FER2013's labels, and aligned faces of people held out.
        """
        val, faces = self.corpus.val, self.corpus.held_out
        logits = predict(average, val, self.side)
        votes = report(logits[val.clear], val.votes[val.clear].argmax(1), CLASSES)
        labels = report(logits, val.labels, CLASSES)
        held = report(predict(average, faces, self.side), faces.labels, CLASSES)
        found = {"clear": votes.war, "clear_uar": votes.uar, "fer": labels.war, "fer_uar": labels.uar}
        found["faces"] = held.war
        return {name: round(value, 4) for name, value in found.items()}

    def _draw(self, epoch: int, rng: torch.Generator) -> list[tuple[Lesson, Tensor]]:
        rendered = round(self.part.pictures * self.part.render_share)
        index = torch.randint(len(self.rendered.weights), (rendered,), generator=rng)
        drawn = [(self.rendered, index)] if rendered else []
        if self.photographs:
            photographs = self.part.pictures - rendered
            parts = sampling.draw([s.pictures for s in self.photographs], self.part, epoch, photographs)
            drawn += list(zip(self.photographs, parts, strict=True))
        return drawn


def train(recipe: Recipe, corpus: Corpus, clips: RenderedClips, world: ProcessGroup = ALONE) -> JointModel:
    """Train, or resume from `work`/joint.pt, and return the averaged model.

    It begins with the tower and action head of the weights file `start`, or at random.
    """
    part, path = recipe.joint, recipe.work / CHECKPOINT
    torch.manual_seed(part.seed)
    model = JointModel(recipe.sizes, bf16=part.bf16)
    extra: dict[str, Any] = {"sizes": recipe.sizes.model_dump(), "start": None}
    if path.is_file():
        extra["start"] = _checked(path, "joint", recipe.sizes)["start"]
    elif recipe.start is not None:
        extra["start"] = begin(model, recipe.start)
    photographs = tuple(_photographs(source, part) for source in corpus.train)
    task = JointTask(photographs, _rendered(clips, part), corpus, part)
    return fit(model, task, part, path, extra, world)


@torch.no_grad()
def begin(model: JointModel, path: Path) -> str:
    """Take over tower and action head of a shipped weights file; the picture head starts at zero. Returns its digest.

    Raises:
        CheckpointError: not such a file, or of other sizes.
    """
    weights = read_weights(path)[0].state_dict()
    mine = model.state_dict()
    wanted = {name: value for name, value in mine.items() if not name.startswith("expression.")}
    found = {name: value for name, value in weights.items() if name in wanted}
    if FIRST_CONVOLUTION in found:
        # What folded brightness into three colours sums to one again.
        found[FIRST_CONVOLUTION] = found[FIRST_CONVOLUTION].sum(1, keepdim=True)
    check_tensors(wanted, found, str(path))
    model.load_state_dict(mine | found)
    nn.init.zeros_(model.expression.weight)
    nn.init.zeros_(model.expression.bias)
    return digest_of(path)


def read_joint(recipe: Recipe) -> tuple[JointModel, dict[str, Any]]:
    """Read the averaged model of stage `joint`, and the settings and epochs that made it.

    Raises:
        ConfigError: the stage has not run.
    """
    state = _checked(recipe.work / CHECKPOINT, "joint", recipe.sizes)
    model = JointModel(recipe.sizes)
    model.load_state_dict(state["average"])
    return model.eval(), {**state["recipe"], "epochs_done": state["epoch"], "start": state["start"]}


@torch.no_grad()
def predict(model: JointModel, pictures: Pictures, side: int, batch: int = 256) -> Tensor:
    """Return float32 logits (N, C) of the plain crops at `side` pixels."""
    model.eval()
    crops = (augment.crop(pixels, pictures.extent) for pixels in torch.split(pictures.pixels, batch))
    return torch.cat([model(augment.resized(images, side))[0] for images in crops])


def _checked(path: Path, stage: str, sizes: Sizes) -> dict[str, Any]:
    state = checkpoint.load(path, stage)
    checkpoint.check_recipe(state.get("sizes", {}), sizes.model_dump(), path)
    return state


def _batch(
    parts: list[tuple[Lesson, Tensor]], strength: augment.Strength, side: int, rng: torch.Generator
) -> JointBatch:
    crops = []
    for source, index in parts:
        theta, _ = augment.jitter(len(index), strength, rng)
        padding = augment.random_padding(rng)
        crops.append(augment.crop(source.pictures.pixels[index], source.pictures.extent, theta, padding))
    lit = augment.photometric(torch.cat(crops), strength, rng)
    return JointBatch(
        images=augment.resized(lit, side),
        targets=torch.cat([source.targets[index] for source, index in parts]),
        weights=torch.cat([source.weights[index] for source, index in parts]),
        units=torch.cat([source.pictures.units[index] for source, index in parts]),
    )


def mixed(batch: JointBatch, share: float, reach: float, rng: torch.Generator) -> JointBatch:
    """Mix a share of the pictures, and what they teach, with another of the batch by up to `reach` (MixUp)."""
    count = len(batch.weights)
    other = torch.randperm(count, generator=rng)
    part = torch.rand(count, generator=rng) * reach * (torch.rand(count, generator=rng) < share)

    def both(values: Tensor) -> Tensor:
        weight = part.view(-1, *[1] * (values.ndim - 1))
        # A picture that stays itself must not take over what is unknown (NaN) of the other.
        return torch.where(weight > 0, torch.lerp(values, values[other], weight), values)

    return JointBatch(both(batch.images), both(batch.targets), both(batch.weights), both(batch.units))


def _photographs(pictures: Pictures, part: JointPart) -> Lesson:
    return Lesson(pictures, pictures.targets(part.vote_share), pictures.readable.float())


def _rendered(clips: RenderedClips, part: JointPart) -> Lesson:
    # Clips that repeat the frames of another in reverse add nothing to single frames.
    once = renders.chosen(clips, clips.reverse_of < 0)
    targets, known = renders.shown(once)
    return Lesson(renders.pictures(once), targets, part.render_emotion * known.float())
