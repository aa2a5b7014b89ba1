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

from streamfer_builtin.mini import augment, checkpoint, images, renders
from streamfer_builtin.mini.data import CLASSES, Corpus, Pictures
from streamfer_builtin.mini.fitting import fit
from streamfer_builtin.mini.networks import ImageModel, JointModel
from streamfer_builtin.mini.recipe import JointPart, Recipe, Sizes
from streamfer_builtin.mini.units import unit_loss
from streamfer_builtin.render.clips import RenderedClips
from streamfer_train.recipes.processes import ALONE, ProcessGroup

log = structlog.get_logger(__name__)

CHECKPOINT = "joint.pt"
#: Intensities are kept this far from 0 and 1 where their log odds are fitted; ridge as a share of the features' power.
_SURE = 0.02
_RIDGE = 1e-3


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
class Source:
    """Pictures with what the stage teaches about each: target probabilities (N, C) and weight (N,)."""

    pictures: Pictures
    targets: Tensor
    weights: Tensor


class JointTask:
    """Batches, loss and validation of the stage."""

    name = "joint"

    def __init__(self, photographs: tuple[Source, ...], rendered: Source, val: Pictures, part: JointPart) -> None:
        self.photographs = photographs
        self.rendered = rendered
        self.val = val
        self.part = part
        self.steps = math.ceil(part.pictures / part.batch)
        self.side = augment.CROP

    def batches(self, epoch: int) -> Iterator[JointBatch]:
        """Yield batches of photographs and rendered frames in the recipe's shares."""
        part = self.part
        rng = torch.Generator().manual_seed(part.seed * 1000 + 700 + epoch)
        drawn = [(s, index.tensor_split(self.steps)) for s, index in self._draw(epoch, rng)]
        strength = augment.Strength().relaxed(part.strength * images.relaxation(epoch / part.epochs))
        for step in range(self.steps):
            self.side = images.side_at((epoch + step / self.steps) / part.epochs, part.small)
            yield _batch([(s, chunks[step]) for s, chunks in drawn], strength, self.side, rng)

    def loss(self, model: JointModel, batch: JointBatch) -> Tensor:
        """Weighted cross-entropy with soft targets, plus that of the action units."""
        logits, units = model(batch.images)
        entropy = F.cross_entropy(logits, batch.targets, label_smoothing=self.part.smoothing, reduction="none")
        emotion = (entropy * batch.weights).sum() / batch.weights.sum().clamp(min=1e-6)
        return emotion + self.part.action_weight * unit_loss(units, batch.units)

    def watch(self, average: JointModel, *, last: bool) -> dict[str, float]:
        """Return accuracy and UAR on FER2013 val, whose pictures are as large as those the epoch ended with."""
        return images.watched(average, self.val, self.side, last=last)

    def _draw(self, epoch: int, rng: torch.Generator) -> list[tuple[Source, Tensor]]:
        rendered = round(self.part.pictures * self.part.render_share)
        index = torch.randint(len(self.rendered.weights), (rendered,), generator=rng)
        drawn = [(self.rendered, index)] if rendered else []
        if self.photographs:
            photographs = self.part.pictures - rendered
            parts = images.draw([s.pictures for s in self.photographs], self.part, epoch, photographs)
            drawn += [(s, rows) for s, (_, rows) in zip(self.photographs, parts, strict=True)]
        return drawn


def train(recipe: Recipe, corpus: Corpus, clips: RenderedClips, world: ProcessGroup = ALONE) -> JointModel:
    """Train, or resume from `work`/joint.pt, and return the averaged model.

    With photographs it starts from stage `images`, whose probabilities on the training pictures it distils.
    """
    part, path = recipe.joint, recipe.work / CHECKPOINT
    torch.manual_seed(part.seed)
    model = JointModel(recipe.sizes, freeze_norms=part.freeze_norms)
    teacher: list[Tensor] = []
    if recipe.photographs:
        first = read_images(recipe.work, recipe.sizes, len(corpus.mirror))
        kept = {k: v for k, v in first.state_dict().items() if not k.startswith("actions.")}
        model.load_state_dict({**model.state_dict(), **kept})
        resumed = path.is_file()
        teacher = checkpoint.load(path, "joint")["teacher"] if resumed else _taught(first, corpus, model.action_head)
    photographs = tuple(_photographs(s, t, part) for s, t in zip(corpus.train, teacher, strict=False))
    task = JointTask(photographs, _rendered(clips, part), corpus.val, part)
    return fit(model, task, part, path, {"sizes": recipe.sizes.model_dump(), "teacher": teacher}, world)


def read_images(work: Path, sizes: Sizes, scores: int) -> ImageModel:
    """Read the averaged model of stage `images`.

    Raises:
        ConfigError: the stage has not run.
    """
    model = ImageModel(sizes, scores)
    model.load_state_dict(_checked(work / images.CHECKPOINT, "images", sizes)["average"])
    return model.eval()


def read_joint(work: Path, sizes: Sizes) -> tuple[JointModel, dict[str, Any]]:
    """Read the averaged model of stage `joint`, and the settings and epochs that made it.

    Raises:
        ConfigError: the stage has not run.
    """
    state = _checked(work / CHECKPOINT, "joint", sizes)
    model = JointModel(sizes)
    model.load_state_dict(state["average"])
    return model.eval(), {**state["recipe"], "epochs_done": state["epoch"]}


def _checked(path: Path, stage: str, sizes: Sizes) -> dict[str, Any]:
    state = checkpoint.load(path, stage)
    checkpoint.check_recipe(state.get("sizes", {}), sizes.model_dump(), path)
    return state


def _batch(
    parts: list[tuple[Source, Tensor]], strength: augment.Strength, side: int, rng: torch.Generator
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


def _photographs(pictures: Pictures, teacher: Tensor, part: JointPart) -> Source:
    labels = F.one_hot(pictures.labels, len(CLASSES)).float()
    targets = labels + part.distil * (teacher.float() - labels)
    return Source(pictures, targets, torch.ones(len(pictures)))


def _rendered(clips: RenderedClips, part: JointPart) -> Source:
    # Clips that repeat the frames of another in reverse add nothing to single frames.
    once = renders.chosen(clips, clips.reverse_of < 0)
    targets, known = renders.shown(once)
    return Source(renders.pictures(once), targets, part.render_emotion * known.float())


@torch.no_grad()
def _taught(first: ImageModel, corpus: Corpus, head: nn.Linear) -> list[Tensor]:
    """Return the first stage's probabilities on each training set, and start the action head from its features.

    The head begins as the ridge regression of the intensities' log odds, where photographs have intensities: rendered
    units are left as they are.
    """
    log.info("mini.joint.teacher", pictures=sum(map(len, corpus.train)))
    features = [_features(first, source) for source in corpus.train]
    x = torch.cat(features)
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    odds = torch.cat([source.units for source in corpus.train]).clamp(_SURE, 1 - _SURE).logit().double()
    identity = torch.eye(x.shape[1], dtype=torch.float64)
    for unit in (~odds.isnan()).any(0).nonzero()[:, 0].tolist():
        known = ~odds[:, unit].isnan()
        rows = x[known]
        power = rows.T @ rows
        ridge = _RIDGE * power.diagonal().mean() * identity
        fitted = torch.linalg.solve(power + ridge, rows.T @ odds[known, unit]).float()
        head.weight[unit], head.bias[unit] = fitted[:-1], fitted[-1]
    return [first.expression(part).softmax(1).half() for part in features]


def _features(model: ImageModel, pictures: Pictures) -> Tensor:
    parts = torch.split(pictures.pixels, 256)
    return torch.cat([model.encode(augment.crop(pixels, pictures.extent)) for pixels in parts])
