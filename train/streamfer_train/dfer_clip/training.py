"""One fold under one seed: the loop, its checkpoints, and the epochs that the protocols choose.

Everything random is a function of (seed, process, step), and clips are a function of (seed, epoch, index): a run that
was interrupted, in the middle of an epoch too, ends at the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
import torch
from torch import nn

from streamfer.errors import CheckpointError, ConfigError, UserError
from streamfer_train.dfer_clip import checkpoint as checkpoints
from streamfer_train.dfer_clip.backbones import Backbone
from streamfer_train.dfer_clip.checkpoint import Checkpoint, Progress
from streamfer_train.dfer_clip.config import MAY_CHANGE, RunConfig
from streamfer_train.dfer_clip.folds import Fold
from streamfer_train.dfer_clip.heads import losses
from streamfer_train.dfer_clip.journal import Journal
from streamfer_train.dfer_clip.loader import build_loaders
from streamfer_train.dfer_clip.model import build_learner
from streamfer_train.dfer_clip.optimiser import Average, build_optimiser, choose_trained, set_learning_rates
from streamfer_train.dfer_clip.predictions import Predictions, predict
from streamfer_train.dfer_clip.protocols import SELECTIONS, EpochScores, Selection, choose
from streamfer_train.recipes.loading import in_steps
from streamfer_train.recipes.settings import check_same
from streamfer_train.recipes.world import ProcessGroup

log = structlog.get_logger(__name__)

LAST = "last.pt"


class DivergedError(UserError, ArithmeticError):
    """A loss or a gradient is not a finite number any more."""


class InterruptedRunError(UserError):
    """Somebody asked the run to stop; it saved and can go on."""

    exit_code = 130


class StopSignal:
    """SIGINT and SIGTERM as a question that the loop asks: a step is finished and saved before the process ends."""

    def __init__(self) -> None:
        self.number = 0

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Take over both signals for a while; a second SIGINT ends the process at once, as usual."""
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number


class Trainer:
    """Model, optimiser and progress of one (fold, seed), in one of the processes that train it."""

    def __init__(
        self, config: RunConfig, fold: Fold, seed: int, folder: Path, world: ProcessGroup, backbone: Backbone
    ) -> None:
        """Build everything at its random start.

        Raises:
            ConfigError: settings that contradict each other, the data, or the number of processes.
        """
        self.config, self.fold, self.folder, self.world = config, fold, folder, world
        self.progress = Progress(fold.number, seed)
        asked = config.optimiser
        processes = world.size * asked.accumulate
        if asked.batch % processes:
            raise ConfigError(
                f"optimiser.batch {asked.batch} is not a multiple of {world.size} process(es) x accumulate "
                f"{asked.accumulate}; choose another batch"
            )
        torch.backends.cuda.matmul.allow_tf32 = config.runtime.tf32
        self.loaders = build_loaders(
            config.data,
            fold,
            batch_size=asked.batch // processes,
            seed=seed,
            rank=world.rank,
            world_size=world.size,
            pin_memory=world.device.type == "cuda",
        )
        self.steps_of_epoch = self.loaders.train_sampler.batches // asked.accumulate
        if not self.steps_of_epoch:
            raise ConfigError(f"fold {fold.number}: {len(fold.train)} training clips are less than one batch")
        self.learner = build_learner(config, backbone, seed).to(world.device)
        choose_trained(self.learner, asked)
        self.trained = [weight for weight in self.learner.parameters() if weight.requires_grad]
        if not self.trained:
            raise ConfigError("optimiser.freeze leaves nothing to train; take a part out of it")
        self.optimiser = build_optimiser(self.learner, asked)
        self.average = Average(self.learner, asked.average) if asked.average else None
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.runtime.precision == "fp16")
        self.parallel = self._parallel()
        self.journal = Journal(folder, config.log, silent=not world.leads)
        self.stop = StopSignal()

    def _parallel(self) -> nn.Module:
        if self.config.runtime.compile:
            self.learner.clip.image_encoder.compile()
            self.learner.clip.temporal_net.compile()
        if self.world.size == 1:
            return self.learner
        devices = [self.world.device] if self.world.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(self.learner, device_ids=devices)

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self, *, resume: bool = False) -> Progress:
        """Train to the last epoch, or until early stopping; returns what was reached.

        Raises:
            DivergedError: a loss or gradient is not finite; the last checkpoint stands.
            InterruptedRunError: a signal asked to stop; the state is saved.
            OutputError: a checkpoint cannot be written; the former one stands.
            CheckpointError: there is nothing to resume from, or it is of another configuration.
        """
        if resume and (self.folder / LAST).exists():
            self.restore(self.folder / LAST)
        progress = self.progress
        with self.journal.open(progress.step, progress.epoch), self.stop.heard():
            while progress.epoch < self.config.optimiser.epochs and not self._stops_early():
                self._epoch()
                _, stopping = self._agree({})
                if stopping:
                    raise self._interrupted(stopping)
        return progress

    def _epoch(self) -> None:
        progress, config, began = self.progress, self.config, time.monotonic()
        self.learner.train()
        self.loaders.train_sampler.set_epoch(progress.epoch, progress.batches)
        total = config.optimiser.epochs
        self.journal.stage(
            f"epoch {progress.epoch + 1}/{total}", self.steps_of_epoch, progress.batches // config.optimiser.accumulate
        )
        size = config.optimiser.accumulate
        left = self.steps_of_epoch - progress.batches // size
        for micro in in_steps(self.loaders.train, size, left):
            parts = self._step(micro)
            for name, value in parts.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            self.journal.advance()
            if progress.step % config.run.checkpoint_every == 0:
                self.save()
        scores = self._evaluate()
        row = {f"train_{name}": value / self.steps_of_epoch for name, value in progress.sums.items()}
        row |= {f"{split}_{name}": value for split in ("test", "held_out") for name, value in scores[split].items()}
        self.journal.epoch(progress.epoch, progress.step, row)
        self.save()
        self.journal.say(
            f"fold {progress.fold} seed {progress.seed} epoch {progress.epoch}/{total}: loss {row['train_total']:.4f}"
            + "".join(
                f", {split.replace('_', ' ')} UAR {100 * found['uar']:.2f} WAR {100 * found['war']:.2f}"
                for split, found in scores.items()
                if found
            )
            + f", {time.monotonic() - began:.1f} s"
        )

    def _step(self, micro: list[Any]) -> dict[str, float]:
        """Take one optimiser step; returns the losses before it, averaged over processes."""
        config, progress = self.config, self.progress
        asked = config.optimiser
        # Dropout, where there is any, must not depend on where a run was interrupted.
        torch.manual_seed((progress.seed * 1_000_003 + progress.step) * 4096 + self.world.rank)
        done = progress.batches / (self.steps_of_epoch * asked.accumulate)
        set_learning_rates(self.optimiser, asked, progress.epoch + done)
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        for place, batch in enumerate(micro):
            moved = {name: tensor.to(self.world.device, non_blocking=True) for name, tensor in batch.items()}
            with self._no_sync(place < len(micro) - 1):
                parts = losses(self.parallel(moved["pixels"]), moved, config.heads)
                self.scaler.scale(parts["total"] / len(micro)).backward()  # type: ignore[no-untyped-call]
            for name, loss in parts.items():
                sums[name] = sums.get(name, torch.zeros((), device=loss.device)) + loss.detach() / len(micro)
        means, stopping = self._agree({name: float(loss) for name, loss in sums.items()})
        if not math.isfinite(means["total"]):
            raise self._diverged("the loss", means["total"])
        self._descend()
        progress.step += 1
        progress.batches += len(micro)
        if self.average is not None:
            self.average.update(self.learner, progress.step)
        rates = {f"lr_{group['name']}": group["lr"] for group in self.optimiser.param_groups}
        self.journal.step(progress.step, {**means, **rates})
        if stopping:
            for name, value in means.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            self.save()
            raise self._interrupted(stopping)
        return means

    def _interrupted(self, number: int) -> InterruptedRunError:
        return InterruptedRunError(
            f"stopped by {signal.Signals(number).name} after step {self.progress.step}; saved in "
            f"{self.folder / LAST}: continue with --resume"
        )

    def _no_sync(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        if wanted and isinstance(self.parallel, nn.parallel.DistributedDataParallel):
            return self.parallel.no_sync()
        return contextlib.nullcontext()

    def _agree(self, means: dict[str, float]) -> tuple[dict[str, float], int]:
        """Average losses over the processes, and let all of them stop where one was asked to."""
        *sums, stopping = self.world.sums([*means.values(), float(self.stop.number)])
        averaged = {name: value / self.world.size for name, value in zip(means, sums, strict=True)}
        if not stopping:
            return averaged, 0
        return averaged, self.stop.number or int(signal.SIGTERM)

    def _descend(self) -> None:
        """Clip, check and apply the gradient."""
        self.scaler.unscale_(self.optimiser)
        limit = self.config.optimiser.clip
        gradients = [weight.grad for weight in self.trained if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trained, limit, norm)
        # With fp16 an overflow is expected now and then: the scaler skips that step and lowers its scale.
        if not self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
            raise self._diverged("the norm of the gradient", float(norm))
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def _diverged(self, what: str, value: float) -> DivergedError:
        kept = self.folder / LAST
        stands = f"{kept} holds the last good state" if kept.exists() else "no checkpoint was written yet"
        return DivergedError(
            f"step {self.progress.step + 1} (epoch {self.progress.epoch + 1}, fold {self.progress.fold}): {what} is "
            f"{value}; {stands}; lower the learning rates, set optimiser.clip, or use runtime.precision: fp32"
        )

    # -- evaluation ----------------------------------------------------------------------------------------------

    def _evaluate(self) -> dict[str, dict[str, float]]:
        """Score the epoch that has just ended, and store what the protocols choose from it."""
        progress = self.progress
        lent = self.average.in_place_of(self.learner) if self.average is not None else contextlib.nullcontext()
        found: dict[str, Predictions] = {}
        with lent:
            for split in ("test", "held_out"):
                loader = getattr(self.loaders, split)
                if loader is not None:
                    self.journal.stage(f"epoch {progress.epoch + 1}, {split}", len(loader))
                    found[split] = predict(self.learner, loader, self.world, self.journal)
        scores = {split: found[split].scores() if split in found else {} for split in ("test", "held_out")}
        progress.epoch, progress.batches = progress.epoch + 1, 0
        progress.history.append({"epoch": progress.epoch, **scores})
        self.world.share(lambda: self._keep_chosen(found))
        return scores

    def _keep_chosen(self, found: dict[str, Predictions]) -> None:
        for selection in self._chosen_now():
            self._keep(selection, found)

    def _chosen_now(self) -> list[Selection]:
        history = [EpochScores(**entry) for entry in self.progress.history]
        chosen: list[Selection] = []
        for selection in SELECTIONS:
            if selection == "held_out" and self.loaders.held_out is None:
                continue
            if choose(history, selection, self.config.stop.metric).epoch == self.progress.epoch:
                chosen.append(selection)
        return chosen

    def _keep(self, selection: Selection, found: dict[str, Predictions]) -> None:
        for split, predictions in found.items():
            predictions.write(self.folder / "predictions" / f"{selection}_{split}.safetensors")
        # The last epoch's weights stand in the checkpoint that training resumes from.
        if selection != "last":
            checkpoints.save(self.folder / f"{selection}.pt", self._checkpoint(weights_only=True))

    def _stops_early(self) -> bool:
        patience = self.config.stop.patience
        if not patience or not self.progress.history:
            return False
        history = [EpochScores(**entry) for entry in self.progress.history]
        best = choose(history, "held_out", self.config.stop.metric).epoch
        return self.progress.epoch - best >= patience

    # -- state ---------------------------------------------------------------------------------------------------

    def _checkpoint(self, *, weights_only: bool = False) -> Checkpoint:
        return Checkpoint(
            config=self.config.model_dump(mode="json"),
            sizes=self.learner.sizes,
            progress=self.progress,
            model=self.learner.state_dict(),
            optimiser=None if weights_only else self.optimiser.state_dict(),
            average=None if self.average is None else self.average.tensors,
            scaler=None if weights_only else self.scaler.state_dict(),
        )

    def save(self) -> None:
        """Write the state that a continuation starts from; losses summed so far belong to it.

        Raises:
            OutputError: it cannot be written; the former checkpoint stands.
        """
        if self.progress.batches == 0:
            self.progress.sums = {}
        self.world.share(lambda: checkpoints.save(self.folder / LAST, self._checkpoint()))

    def restore(self, path: Path) -> None:
        """Take up the state of a checkpoint.

        Raises:
            CheckpointError: damaged, or of another configuration, fold or seed; the message names what differs.
        """
        found = checkpoints.load(path)
        check_same(path, found.config, self.config.model_dump(mode="json"), MAY_CHANGE)
        for name in ("fold", "seed"):
            before, now = getattr(found.progress, name), getattr(self.progress, name)
            if before != now:
                raise CheckpointError(f"{path}: is of {name} {before}, not {now}")
        checkpoints.restore_model(self.learner, found.model, str(path))
        if found.optimiser is None or found.scaler is None:
            raise CheckpointError(f"{path}: holds weights only; training resumes from {LAST}")
        self.optimiser.load_state_dict(found.optimiser)
        self.scaler.load_state_dict(found.scaler)
        if self.average is not None and found.average is not None:
            self.average.tensors = {name: tensor.to(self.world.device) for name, tensor in found.average.items()}
        for name in Progress.__slots__:
            setattr(self.progress, name, getattr(found.progress, name))
        if self.world.leads:
            log.info("dfer_clip.resumed", epoch=self.progress.epoch, step=self.progress.step, path=str(path))
