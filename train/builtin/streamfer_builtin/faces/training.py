"""The training loop: one optimiser step a batch, a moving average of the weights, checkpoints that resume exactly.

Everything random is a function of (seed, step), so an interrupted run that resumes ends at the same weights.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
import torch
from torch.utils.data import DataLoader, Dataset

from streamfer.errors import CheckpointError
from streamfer_builtin.faces.config import FacesConfig, TrainConfig
from streamfer_builtin.faces.losses import Losses, LossWeights, assign, losses
from streamfer_builtin.faces.network import FaceNetwork, decoded
from streamfer_builtin.faces.start import take_weights
from streamfer_builtin.faces.views import Batch, Views, normalised
from streamfer_train.recipes.checkpoint import read_checkpoint, write_tensors

log = structlog.get_logger(__name__)

CHECKPOINT = "checkpoint.pt"
OURS = "'python -m streamfer_builtin.faces'"
REFERENCE_SIDE = 256


@dataclass(slots=True)
class TrainingState:
    """Network, its moving average and the optimiser at ``step`` finished steps."""

    settings: TrainConfig
    network: FaceNetwork
    average: FaceNetwork
    optimiser: torch.optim.AdamW
    step: int = 0

    @staticmethod
    def fresh(settings: TrainConfig, device: str = "cpu") -> TrainingState:
        """A trainer with newly drawn weights, or those of ``settings.start`` as far as they reach."""
        torch.manual_seed(settings.seed)
        network = FaceNetwork()
        if settings.start is not None:
            take_weights(network, settings.start)
        network.to(device).to(memory_format=torch.channels_last)
        average = FaceNetwork().to(device)
        average.load_state_dict(network.state_dict())
        average.eval().requires_grad_(False)
        decayed = [weight for weight in network.parameters() if weight.ndim > 1]
        plain = [weight for weight in network.parameters() if weight.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": settings.optimiser.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return TrainingState(settings, network, average, torch.optim.AdamW(groups, lr=settings.optimiser.learning_rate))

    def advance(self, batch: Batch) -> Losses:
        """One optimiser step; returns the losses before it."""
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.step)
        device = next(self.network.parameters()).device
        pictures = normalised(batch.pictures.to(device)).contiguous(memory_format=torch.channels_last)
        targets = batch.targets.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            maps = self.network(pictures)
        predictions = decoded(maps)
        height, width = pictures.shape[-2:]
        assignment = assign(predictions, targets, height, width)
        weights = LossWeights(**self.settings.loss.model_dump())
        result = losses(predictions, targets, assignment, weights)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(result.total)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.optimiser.clip)
        self.optimiser.step()
        self.step += 1
        self._follow()
        return result

    @torch.no_grad()
    def _follow(self) -> None:
        # Early on the average would mostly remember the initial weights: its memory grows with the steps taken.
        keep = min(self.settings.optimiser.average, (1 + self.step) / (10 + self.step))
        ours, theirs = self.average.state_dict(), self.network.state_dict()
        for name, value in ours.items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1 - keep)
            else:
                value.copy_(theirs[name])

    def save(self, path: Path) -> None:
        """Write the state so that a reader, or a crash, sees the former file or the whole new one.

        Raises:
            OutputError: it cannot be written; the former file is untouched.
        """
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_tensors(path, state)

    def restore(self, path: Path) -> None:
        """Take up the state of a checkpoint.

        Raises:
            CheckpointError: the file is not a checkpoint of this network.
        """
        state = read_checkpoint(path, OURS)
        try:
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = int(state["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path}: is of another network; choose another work folder") from error


def averaged_network(path: Path) -> FaceNetwork:
    """The network with the averaged weights of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: the file is not a checkpoint of this network.
    """
    network = FaceNetwork()
    try:
        network.load_state_dict(read_checkpoint(path, OURS)["average"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: is of another network; train it again") from error
    return network.eval()


def learning_rate(settings: TrainConfig, step: int) -> float:
    """Linear warm-up, then a half cosine down to 1 % at the last step."""
    peak = settings.optimiser.learning_rate
    if step < settings.optimiser.warmup:
        return peak * (step + 1) / settings.optimiser.warmup
    done = (step - settings.optimiser.warmup) / max(1, settings.steps - settings.optimiser.warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def side_of_step(settings: TrainConfig, step: int) -> int:
    """The picture side of a step, drawn evenly from the configured ones."""
    rng = np.random.default_rng([settings.seed, step, 1])
    return settings.sides[int(rng.integers(len(settings.sides)))]


def strength_of_step(settings: TrainConfig, step: int) -> float:
    """How often pictures are damaged: fully at first, four times in ten in the last quarter, when the rate is low."""
    return 1.0 if step < 0.75 * settings.steps else 0.4


def batch_of_side(settings: TrainConfig, side: int) -> int:
    """How many pictures of ``side`` pixels make a step: as many pixels as ``batch`` pictures of 256 have."""
    return max(1, round(settings.batch * (REFERENCE_SIDE / side) ** 2))


class _Steps(Dataset[Batch]):
    """The batches of a training by step, from ``first`` on."""

    def __init__(self, views: Views, settings: TrainConfig, first: int, last: int) -> None:
        self.views, self.settings, self.first, self.last = views, settings, first, last

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __getitem__(self, place: int) -> Batch:
        step, settings = self.first + place, self.settings
        side = side_of_step(settings, step)
        strength = strength_of_step(settings, step)
        return self.views.batch(settings.seed, step, batch_of_side(settings, side), side, strength)


def train(config: FacesConfig, *, until: int | None = None) -> Path:
    """Train to ``config.train.steps`` (or stop at ``until``), resuming from the work folder; returns the checkpoint."""
    settings = config.train
    views = Views(config.data)
    path = config.work / CHECKPOINT
    trainer = TrainingState.fresh(settings, config.device)
    if path.is_file():
        trainer.restore(path)
        log.info("faces.train.resumed", step=trainer.step)
    last = settings.steps if until is None else min(until, settings.steps)
    began, shown = time.monotonic(), 0
    steps = _Steps(views, settings, trainer.step, last)
    for batch in DataLoader(steps, batch_size=None, num_workers=config.workers):
        result = trainer.advance(batch)
        shown += len(batch.pictures)
        if trainer.step % settings.log_every == 0:
            log.info(
                "faces.train.step",
                step=trainer.step,
                score=round(result.score.item(), 4),
                box=round(result.box.item(), 4),
                landmarks=round(result.landmarks.item(), 4),
                learning_rate=round(learning_rate(settings, trainer.step), 6),
                pictures_per_second=round(shown / (time.monotonic() - began), 1),
            )
        if trainer.step % settings.checkpoint_every == 0:
            trainer.save(path)
    trainer.save(path)
    return path
