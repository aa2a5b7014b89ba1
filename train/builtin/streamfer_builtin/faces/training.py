"""What the loop that every recipe trains with is given here: a step is a batch of views, all steps are one epoch.

Everything random is a function of (seed, step, process), so an interrupted run that resumes ends at the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from streamfer.errors import CheckpointError
from streamfer_builtin.faces.config import FacesConfig, TrainConfig
from streamfer_builtin.faces.losses import Targets, assign, losses
from streamfer_builtin.faces.network import FaceNetwork, decoded
from streamfer_builtin.faces.start import take_weights
from streamfer_builtin.faces.views import Views, normalised
from streamfer_train.recipes.checkpoint import LAST, Checkpoint, Progress
from streamfer_train.recipes.loading import Batch
from streamfer_train.recipes.processes import ProcessGroup, joined
from streamfer_train.recipes.sections import LogConfig, RunSection
from streamfer_train.recipes.trainer import Job, Trainer, Unmeasured, half_cosine, micro_batch

RECIPE = "faces"
"""Name of the recipe, in its checkpoints."""
#: Settings that may change between an interrupted run and its continuation.
MAY_CHANGE = ("data", "work", "device", "workers", "train.checkpoint_every", "train.log_every")
REFERENCE_SIDE = 256


class FacesTask(Unmeasured):
    """The detector with newly drawn weights, or those of ``start`` as far as they reach, its views and its losses."""

    def __init__(self, config: FacesConfig, world: ProcessGroup) -> None:
        self.rank, self.share = world.rank, micro_batch(config.train.batch, 1, world)
        self.settings, self.workers, self.steps = config.train, config.workers, config.train.steps
        self.views = Views(config.data)
        torch.manual_seed(self.settings.seed)
        self.learner: nn.Module = FaceNetwork()
        if self.settings.start is not None:
            take_weights(self.learner, self.settings.start)
        self.learner.to(memory_format=torch.channels_last)

    def optimiser(self) -> torch.optim.Optimizer:
        """Build AdamW; biases do not decay."""
        asked, weights = self.settings.optimiser, list(self.learner.parameters())
        groups = [
            {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": asked.weight_decay},
            {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=asked.learning_rate)

    def batches(self, epoch: int, done: int) -> Iterable[Batch]:
        """Return the batches of all steps but the first ``done``."""
        del epoch
        steps = _Steps(self.views, self.settings, done, self.rank, self.share)
        return DataLoader(steps, batch_size=None, num_workers=self.workers)

    def set_rates(self, optimiser: torch.optim.Optimizer, progress: Progress) -> dict[str, float]:
        """Set the learning rate of the next step."""
        rate = learning_rate(self.settings, progress.step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        return {"lr": rate}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the weighted sum and its terms."""
        pictures = normalised(batch["pictures"]).contiguous(memory_format=torch.channels_last)
        targets = Targets(*(batch[name] for name in Targets.__slots__))
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            maps = model(pictures)
        predictions = decoded(maps)
        assignment = assign(predictions, targets, *pictures.shape[-2:])
        return losses(predictions, targets, assignment, self.settings.loss)


def averaged_network(path: Path) -> FaceNetwork:
    """The network with the averaged weights of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: the file is not a checkpoint of this network.
    """
    network, found = FaceNetwork(), Checkpoint.load(path, RECIPE)
    try:
        network.load_state_dict({**found.model, **(found.average or {})})
    except RuntimeError as error:
        raise CheckpointError(f"{path}: is of another network; train it again") from error
    return network.eval()


def learning_rate(settings: TrainConfig, step: int) -> float:
    """Linear warm-up, then a half cosine down to 1 % at the last step."""
    peak = settings.optimiser.learning_rate
    if step < settings.optimiser.warmup:
        return peak * (step + 1) / settings.optimiser.warmup
    done = (step - settings.optimiser.warmup) / max(1, settings.steps - settings.optimiser.warmup)
    return peak * half_cosine(done, end=0.01)


def side_of_step(settings: TrainConfig, step: int) -> int:
    """The picture side of a step, drawn evenly from the configured ones."""
    rng = np.random.default_rng([settings.seed, step, 1])
    return settings.sides[int(rng.integers(len(settings.sides)))]


def strength_of_step(settings: TrainConfig, step: int) -> float:
    """How often pictures are damaged: six times in ten, three in the last quarter, when the rate is low."""
    return 0.6 if step < 0.75 * settings.steps else 0.3


def batch_of_side(batch: int, side: int) -> int:
    """How many pictures of ``side`` pixels make a step: as many pixels as ``batch`` pictures of 256 have."""
    return max(1, round(batch * (REFERENCE_SIDE / side) ** 2))


class _Steps(Dataset[Batch]):
    """The batches of process ``rank`` by step, from ``first`` on: ``pictures``, and the fields of :class:`Targets`."""

    def __init__(self, views: Views, settings: TrainConfig, first: int, rank: int, share: int) -> None:
        self.views, self.settings, self.first, self.rank, self.share = views, settings, first, rank, share

    def __len__(self) -> int:
        return max(0, self.settings.steps - self.first)

    def __getitem__(self, place: int) -> Batch:
        step, settings = self.first + place, self.settings
        side, strength = side_of_step(settings, step), strength_of_step(settings, step)
        size = batch_of_side(self.share, side)
        made = self.views.batch([settings.seed, step, self.rank], size, side, strength)
        return {"pictures": made.pictures, **{name: getattr(made.targets, name) for name in Targets.__slots__}}


def train(config: FacesConfig) -> tuple[Path, bool]:
    """Train to the last step, going on where the work folder has a checkpoint.

    Returns the checkpoint, and whether this process is the first of those that trained together.

    Raises:
        UserError: as :meth:`~streamfer_train.recipes.trainer.Trainer.run`.
    """
    asked = config.train
    job = Job(
        recipe=RECIPE,
        name=RECIPE,
        folder=config.work,
        config=config.model_dump(mode="json"),
        may_change=MAY_CHANGE,
        seed=asked.seed,
        epochs=1,
        run=RunSection(out=config.work, device=config.device, checkpoint_every=asked.checkpoint_every),
        log=LogConfig(every=asked.log_every, tensorboard=False),
        clip=asked.optimiser.clip,
        average=asked.optimiser.average,
        whole=True,
    )
    with joined(config.device) as world:
        Trainer(job, FacesTask(config, world), world).run(resume=True)
    return config.work / LAST, world.leads
