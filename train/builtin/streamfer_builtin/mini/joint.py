"""Stage `joint`: tower and final heads together, on photographs and rendered frames.

Photographs decide what an emotion looks like; renders bring the action units that no teacher has labelled, exact
intensities, and poses. Shape suffixes: B pictures, F rendered frames, C classes, A action units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor
from torch.nn import functional as F

from streamfer.files import sha256_of
from streamfer_builtin.mini import augment, checkpoint, renders, sampling
from streamfer_builtin.mini.data import CLASSES, Corpus, Pictures
from streamfer_builtin.mini.fitting import Running, fit
from streamfer_builtin.mini.networks import JointModel
from streamfer_builtin.mini.recipe import JointPart, Recipe, Sizes
from streamfer_builtin.mini.start import begin, digest_of
from streamfer_builtin.mini.units import unit_loss
from streamfer_builtin.render.clips import RenderedClips
from streamfer_train.metrics.classification import report
from streamfer_train.recipes.processes import ALONE, ProcessGroup

log = structlog.get_logger(__name__)

CHECKPOINT = "joint.pt"
#: Batches that are drawn together: a GPU is quick at many pictures at once.
_TOGETHER = 16
#: Pictures that have one kind of margin.
_ALIKE = 256


@dataclass(frozen=True, slots=True)
class JointBatch:
    """One batch, or several drawn together.

    Attributes:
        images: float32 (B, 1, 48, 48), crops; the networks enlarge them.
        targets: float32 (B, C), probabilities of the emotions.
        weights: float32 (B,), what each picture's emotion counts.
        units: float32 (B, A), intensities 0-1, NaN where unknown.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    units: Tensor

    def rows(self, rows: Tensor | slice) -> JointBatch:
        """Return the pictures at `rows`."""
        return JointBatch(self.images[rows], self.targets[rows], self.weights[rows], self.units[rows])


@dataclass(frozen=True, slots=True)
class Lesson:
    """Pictures with what the stage teaches about each: target probabilities (N, C) and weight (N,)."""

    pictures: Pictures
    targets: Tensor
    weights: Tensor

    def to(self, device: str) -> Lesson:
        """Return the lesson on a device."""
        return Lesson(self.pictures.to(device), self.targets.to(device), self.weights.to(device))


class JointTask:
    """Batches, loss and validation of the stage; pictures are drawn where the network computes."""

    name = "joint"

    def __init__(
        self,
        lessons: tuple[Lesson, ...],
        corpus: Corpus,
        part: JointPart,
        image: int,
        teachers: tuple[JointModel, ...] = (),
        device: str = "cpu",
    ) -> None:
        """Rendered frames are the last of the `lessons`."""
        self.photographs = [lesson.pictures for lesson in lessons[:-1]]
        self.lessons = [lesson.to(device) for lesson in lessons]
        self.corpus = corpus
        self.part = part
        self.image = image
        self.teachers = teachers
        self.device = device
        self.steps = math.ceil(part.pictures / part.batch)
        self._rows: tuple[int, Tensor] | None = None
        self._block: tuple[tuple[int, int], JointBatch] | None = None

    def batch(self, epoch: int, step: int) -> JointBatch:
        """Return one batch of photographs and rendered frames, in the recipe's shares on average."""
        block, place = divmod(step, _TOGETHER)
        if self._block is None or self._block[0] != (epoch, block):
            self._block = (epoch, block), self._drawn(epoch, block)
        return self._block[1].rows(slice(place * self.part.batch, (place + 1) * self.part.batch))

    def loss(self, model: JointModel, batch: JointBatch) -> Tensor:
        """Weighted cross-entropy with soft targets, plus that of the action units."""
        logits, units = model(augment.resized(batch.images, self.image))
        targets = self._taught(batch) if self.teachers else batch.targets
        entropy = F.cross_entropy(logits, targets, label_smoothing=self.part.smoothing, reduction="none")
        emotion = (entropy * batch.weights).sum() / batch.weights.sum().clamp(min=1e-6)
        return emotion + self.part.action_weight * unit_loss(units, batch.units)

    def watch(self, average: JointModel, epoch: int) -> dict[str, float]:  # noqa: ARG002 - the same after every epoch
        """Return accuracy and UAR on clear pictures of FER2013 val by their votes, on all by FER2013's labels.

        And accuracy on aligned faces of people held out.
        """
        val, faces = self.corpus.val, self.corpus.held_out
        logits = predict(average, val, self.image)
        votes = report(logits[val.clear], val.votes[val.clear].argmax(1), CLASSES)
        labels = report(logits, val.labels, CLASSES)
        held = report(predict(average, faces, self.image), faces.labels, CLASSES)
        found = {"clear": votes.war, "clear_uar": votes.uar, "fer": labels.war, "fer_uar": labels.uar}
        found["faces"] = held.war
        return {name: round(value, 4) for name, value in found.items()}

    @torch.no_grad()
    def _taught(self, batch: JointBatch) -> Tensor:
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.part.bf16):
            read = [t(augment.resized(batch.images, t.image))[0].float().softmax(-1) for t in self.teachers]
        return torch.lerp(batch.targets, torch.stack(read).mean(0), self.part.distil)

    def _drawn(self, epoch: int, block: int) -> JointBatch:
        """Draw the pictures of several batches at once, each from any lesson."""
        part = self.part
        rng = torch.Generator(self.device).manual_seed((part.seed * 10_007 + epoch) * 100_003 + block)
        strength = augment.Strength().relaxed(part.strength * sampling.relaxation(epoch / part.epochs))
        if self._rows is None or self._rows[0] != epoch:
            self._rows = epoch, self._drawn_rows(epoch)
        size = part.batch * _TOGETHER
        lesson, row = self._rows[1][:, block * size : (block + 1) * size]
        taken = [(each, row[lesson == place].to(self.device)) for place, each in enumerate(self.lessons)]
        taken = [(each, rows) for each, rows in taken if len(rows)]
        made = mixed(_batch(taken, strength, rng), part.mixed, part.mix_reach, rng)
        return made.rows(torch.randperm(len(made.weights), generator=rng, device=self.device))

    def _drawn_rows(self, epoch: int) -> Tensor:
        """Return the lessons, and the rows in them, of an epoch's pictures: int64 (2, steps x batch)."""
        rng = torch.Generator().manual_seed(self.part.seed * 1000 + 700 + epoch)
        rendered = round(self.part.pictures * self.part.render_share)
        parts = sampling.draw(self.photographs, self.part, epoch, self.part.pictures - rendered)
        parts.append(torch.randint(len(self.lessons[-1].weights), (rendered,), generator=rng))
        rows = torch.cat([torch.stack([torch.full_like(p, place), p]) for place, p in enumerate(parts)], 1)
        order = torch.randperm(rows.shape[1], generator=rng)
        return rows[:, order[torch.arange(self.steps * self.part.batch) % len(order)]]


def train(recipe: Recipe, corpus: Corpus, clips: RenderedClips, world: ProcessGroup = ALONE) -> JointModel:
    """Train, or resume from `work`/joint.pt, and return the averaged model, on the CPU."""
    part, path = recipe.joint, recipe.work / CHECKPOINT
    model = _model(recipe, part)
    taught_by = [recipe.of_teacher(place) for place in range(len(recipe.teachers))]
    teachers = tuple(read_joint(each)[0] for each in taught_by)
    extra: dict[str, Any] = {
        "sizes": recipe.sizes.model_dump(),
        "teachers": [sha256_of(each.work / CHECKPOINT)[:16] for each in taught_by],
        "rendered": len(clips),
    }
    if path.is_file():
        state = _checked(path, "joint", recipe.sizes)
        # Where it begins may be gone by now; what is there must be what it began with.
        asked = {"start": found} if (found := digest_of(recipe.start)) else {}
        checkpoint.check_recipe(state, {**asked, "teachers": extra["teachers"], "rendered": extra["rendered"]}, path)
        extra["start"] = state["start"]
    else:
        extra["start"] = "random" if recipe.start == "random" else begin(model, recipe.start)
    return _fitted(recipe, part, path, model, extra, corpus, clips, world, teachers)


def _model(recipe: Recipe, part: JointPart) -> JointModel:
    torch.manual_seed(part.seed)
    return JointModel(recipe.sizes, bf16=part.bf16, dropout=part.dropout, drop_path=part.drop_path)


def _fitted(
    recipe: Recipe,
    part: JointPart,
    path: Path,
    model: JointModel,
    extra: dict[str, Any],
    corpus: Corpus,
    clips: RenderedClips,
    world: ProcessGroup,
    teachers: tuple[JointModel, ...] = (),
) -> JointModel:
    for teacher in teachers:
        teacher.to(recipe.device).requires_grad_(False)
    lessons = (*(_photographs(source, part) for source in corpus.train), _rendered(clips, part))
    task = JointTask(lessons, corpus, part, recipe.sizes.image, teachers, recipe.device)
    return fit(model, task, part, path, extra, Running(recipe.device, world)).cpu()


def read_joint(recipe: Recipe) -> tuple[JointModel, dict[str, Any]]:
    """Read the averaged model of stage `joint`, and the settings and epochs that made it.

    Raises:
        ConfigError: the stage has not run.
    """
    state = _checked(recipe.work / CHECKPOINT, "joint", recipe.sizes)
    model = JointModel(recipe.sizes)
    with checkpoint.restoring(recipe.work / CHECKPOINT):
        model.load_state_dict(state["average"])
    return model.eval(), {**state["recipe"], "epochs_done": state["epoch"], "start": state["start"]}


@torch.no_grad()
def predict(model: JointModel, pictures: Pictures, side: int, batch: int = 256) -> Tensor:
    """Return float32 logits (N, C), on the CPU, of the plain crops at `side` pixels."""
    model.eval()
    device = next(model.parameters()).device
    crops = (augment.crop(pixels.to(device), pictures.extent) for pixels in torch.split(pictures.pixels, batch))
    return torch.cat([model(augment.resized(images, side))[0].cpu() for images in crops])


def _checked(path: Path, stage: str, sizes: Sizes) -> dict[str, Any]:
    state = checkpoint.load(path, stage, (*checkpoint.STATE, "sizes", "start"))
    checkpoint.check_recipe(state["sizes"], sizes.model_dump(), path)
    return state


def _batch(parts: list[tuple[Lesson, Tensor]], strength: augment.Strength, rng: torch.Generator) -> JointBatch:
    crops = []
    for source, index in parts:
        theta, _ = augment.jitter(len(index), strength, rng)
        for rows, moved in zip(index.split(_ALIKE), theta.split(_ALIKE), strict=True):
            padding = augment.random_padding(rng)
            crops.append(augment.crop(source.pictures.pixels[rows], source.pictures.extent, moved, padding))
    return JointBatch(
        images=augment.photometric(torch.cat(crops), strength, rng),
        targets=torch.cat([source.targets[index] for source, index in parts]),
        weights=torch.cat([source.weights[index] for source, index in parts]),
        units=torch.cat([source.pictures.units[index] for source, index in parts]),
    )


def mixed(batch: JointBatch, share: float, reach: float, rng: torch.Generator) -> JointBatch:
    """Mix a share of the pictures, and what they teach, with another of the batch by up to `reach` (MixUp)."""
    count = len(batch.weights)
    other = torch.randperm(count, generator=rng, device=rng.device)
    reached, chosen = torch.rand(2, count, generator=rng, device=rng.device)
    part = reached * reach * (chosen < share)

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
