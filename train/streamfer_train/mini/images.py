"""Stage 1: the image tower of the mini model on single pictures, with action scores as a second task."""

from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from torch import Tensor, nn
from torch.nn import functional as F

from streamfer_train.mini import augment
from streamfer_train.mini.data import CLASSES, Corpus, Pictures, sampling_weights
from streamfer_train.mini.evaluate import score

log = structlog.get_logger(__name__)

Net = TypeVar("Net", bound=nn.Module)

EMBED_DIM = 256
VISION: dict[str, Any] = {"layers": (2, 2, 2, 2), "width": 24, "head_width": 64, "image_size": augment.CROP}


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """Hyper-parameters of stage 1; an epoch is a number of drawn pictures, not a pass."""

    epochs: int = 30
    pictures: int = 28_000
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    warm_up: float = 0.04
    smoothing: float = 0.1
    action_weight: float = 0.4
    ema: float = 0.999
    power: float = 0.5
    faces_share: float = 0.2
    faces_cap: int = 1500
    seed: int = 1


class ImageModel(nn.Module):
    """The tower with the two heads that exist only in training: expression and action scores."""

    def __init__(self, actions: int, vision: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.image_encoder = _build_vision_tower(EMBED_DIM, CLIPVisionCfg(**(vision or VISION)))
        self.expression = nn.Linear(EMBED_DIM, len(CLASSES))
        self.actions = nn.Linear(EMBED_DIM, actions)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map grey float32 (B, 1, 64, 64) to logits (B, C) and action scores (B, A), both float32."""
        features = self.encode(images)
        return self.expression(features), self.actions(features)

    def encode(self, images: Tensor) -> Tensor:
        """Map grey float32 (B, 1, 64, 64) to features float32 (B, 256); runs in bfloat16."""
        colour = images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            features: Tensor = self.image_encoder(colour)
        return features.float()


class Average(Generic[Net]):
    """Exponential moving average of parameters and BatchNorm statistics."""

    def __init__(self, model: Net, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`; young averages move faster."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)


def draw(corpus: Corpus, recipe: ImageRecipe, epoch: int) -> list[tuple[Pictures, Tensor]]:
    """Draw an epoch's pictures of every source, classes balanced; the same for the same seed and epoch."""
    rng = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
    faces = round(recipe.pictures * recipe.faces_share)
    plan = ((corpus.train[0], recipe.pictures - faces, None), (corpus.train[1], faces, recipe.faces_cap))
    drawn = []
    for pictures, count, cap in plan:
        weights = sampling_weights(pictures.labels, power=recipe.power, cap=cap)
        drawn.append((pictures, _without_clumps(weights, count, rng)))
    return drawn


def batch_of(
    corpus: Corpus, parts: list[tuple[Pictures, Tensor]], strength: augment.Strength, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Augment one batch: images (B, 1, 64, 64), labels (B,), action scores (B, A)."""
    images, labels, actions = [], [], []
    for pictures, index in parts:
        theta, mirrored = augment.jitter(len(index), strength, rng)
        padding = augment.random_padding(rng)
        images.append(augment.crop(pictures.pixels[index], extent(pictures), theta, padding))
        labels.append(pictures.labels[index])
        scores = pictures.actions[index]
        actions.append(torch.where(mirrored[:, None], scores[:, corpus.mirror] * corpus.mirror_sign, scores))
    return augment.photometric(torch.cat(images), strength, rng), torch.cat(labels), torch.cat(actions)


def extent(pictures: Pictures) -> float:
    """Return the size in crop pixels at which a source's pictures line up with the crop's landmarks."""
    return augment.FER_EXTENT if pictures.source.startswith("fer2013") else float(augment.CROP)


def loss_of(model: ImageModel, batch: tuple[Tensor, Tensor, Tensor], recipe: ImageRecipe) -> Tensor:
    """Cross-entropy plus the weighted squared error of the action scores that exist."""
    images, labels, actions = batch
    logits, predicted = model(images)
    known = ~actions.isnan()
    error = F.smooth_l1_loss(predicted[known], actions[known])
    return F.cross_entropy(logits, labels, label_smoothing=recipe.smoothing) + recipe.action_weight * error


@torch.no_grad()
def predict(model: ImageModel, pictures: Pictures, batch: int = 256) -> Tensor:
    """Return float32 logits (N, C) of the plain crops, mirrored views averaged in."""
    model.eval()
    out = []
    for rows in torch.split(torch.arange(len(pictures)), batch):
        images = augment.crop(pictures.pixels[rows], extent(pictures))
        out.append((model(images)[0] + model(images.flip(-1))[0]) / 2)
    return torch.cat(out)


def train(corpus: Corpus, recipe: ImageRecipe, out: Path, vision: dict[str, Any] | None = None) -> ImageModel:
    """Train, or resume from `out`/images.pt, and return the averaged model.

    One checkpoint an epoch, written whole or not at all.
    """
    torch.manual_seed(recipe.seed)
    model = ImageModel(len(corpus.mirror), vision)
    model.image_encoder.to(memory_format=torch.channels_last)
    average = Average(model, recipe.ema)
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr, fused=True)
    steps = math.ceil(recipe.pictures / recipe.batch)
    path = out / "images.pt"
    first = _resume(path, model, average, optimizer) if path.is_file() else 0
    for epoch in range(first, recipe.epochs):
        began = time.monotonic()
        model.train()
        loss = _epoch(corpus, recipe, epoch, steps, model, average, optimizer)
        scores = score(predict(average.model, corpus.val), corpus.val.labels)
        seconds = round(time.monotonic() - began, 1)
        log.info(
            "mini.images.epoch",
            epoch=epoch,
            loss=round(loss, 4),
            val_acc=round(scores.accuracy, 4),
            val_uar=round(scores.uar, 4),
            seconds=seconds,
        )
        save(
            path,
            {
                "epoch": epoch + 1,
                "model": model.state_dict(),
                "average": average.model.state_dict(),
                "average_steps": average.steps,
                "optimizer": optimizer.state_dict(),
                "recipe": asdict(recipe),
            },
        )
    return average.model


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash leaves the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _epoch(
    corpus: Corpus,
    recipe: ImageRecipe,
    epoch: int,
    steps: int,
    model: ImageModel,
    average: Average[ImageModel],
    optimizer: torch.optim.Optimizer,
) -> float:
    rng = torch.Generator().manual_seed(recipe.seed * 1000 + 500 + epoch)
    drawn = [(pictures, index.tensor_split(steps)) for pictures, index in draw(corpus, recipe, epoch)]
    strength = augment.Strength().relaxed(relaxation(epoch / recipe.epochs))
    total = 0.0
    for step in range(steps):
        batch = batch_of(corpus, [(p, chunks[step]) for p, chunks in drawn], strength, rng)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate((epoch * steps + step) / (recipe.epochs * steps), recipe.warm_up)
        loss = loss_of(model, batch, recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        total += loss.item()
        if step % 100 == 0:
            log.info("mini.images.step", epoch=epoch, step=step, loss=round(loss.item(), 4))
    return total / steps


def relaxation(progress: float) -> float:
    """Augmentation is full at first and relaxes to 0.55: a short run ends nearer to the pictures it will meet."""
    return 1.0 if progress < 0.3 else 1.0 - 0.45 * (progress - 0.3) / 0.7


def rate(progress: float, warm_up: float) -> float:
    """Linear warm-up, then half a cosine to zero; `progress` in [0, 1)."""
    if progress < warm_up:
        return progress / warm_up + 1e-3
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _without_clumps(weights: Tensor, count: int, rng: torch.Generator) -> Tensor:
    # Whole parts of the expected count are certain and only the rest is drawn: less repetition than plain sampling.
    expected = weights / weights.sum() * count
    certain = expected.floor()
    repeats = certain.long() + (torch.rand(len(weights), generator=rng, dtype=torch.float64) < expected - certain)
    index = torch.repeat_interleave(torch.arange(len(weights)), repeats)
    return index[torch.randperm(len(index), generator=rng)]


def _resume(path: Path, model: ImageModel, average: Average[ImageModel], optimizer: torch.optim.Optimizer) -> int:
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    average.model.load_state_dict(state["average"])
    average.steps = state["average_steps"]
    optimizer.load_state_dict(state["optimizer"])
    log.info("mini.images.resumed", path=path.name, epoch=state["epoch"])
    return int(state["epoch"])
