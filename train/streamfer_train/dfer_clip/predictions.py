"""What a model says about every clip of a list, gathered from all processes, scored and stored.

Shape suffixes: N clips of the list, C classes, A action units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from scipy.special import log_softmax

from streamfer.errors import CheckpointError
from streamfer.files import write_whole
from streamfer_train.dfer_clip.model import Learner, actions_loss
from streamfer_train.metrics.arrays import BoolArray, FloatArray, as_floats
from streamfer_train.metrics.classification import Report, report
from streamfer_train.recipes.journal import Journal
from streamfer_train.recipes.processes import ProcessGroup


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs and labels, in the order of the list."""

    classes: tuple[str, ...]
    #: uncalibrated float32 in training; under evaluation float64, divided by the model's own temperature
    logits_NC: torch.Tensor
    labels_N: torch.Tensor
    index_N: torch.Tensor
    #: float32 ``actions`` where the model has that head, and ``actions_target`` (NaN: unknown)
    others: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def probabilities_NC(self) -> FloatArray:
        """Softmax of the logits."""
        probabilities_NC: FloatArray = np.exp(log_softmax(as_floats(self.logits_NC), axis=1))
        return probabilities_NC

    def confidences(self) -> tuple[FloatArray, BoolArray]:
        """Return the probability of each clip's most probable class, and whether it is the label; both (N,)."""
        probabilities_NC = self.probabilities_NC
        return probabilities_NC.max(axis=1), probabilities_NC.argmax(axis=1) == self.labels_N.numpy()

    def report(self) -> Report:
        return report(self.logits_NC, self.labels_N, self.classes)

    def scores(self) -> dict[str, float]:
        """Return the scalar scores by name; a score that does not exist (NaN) is left out."""
        numbers, target = self.report().numbers(), self.others.get("actions_target")
        if target is not None and bool(torch.isfinite(target).any()):
            numbers["actions_bce"] = float(actions_loss(self.others["actions"], target))
        return {name: float(value) for name, value in numbers.items() if not math.isnan(value)}

    def write(self, path: Path) -> None:
        """Write as safetensors ``logits``, ``labels``, ``index`` and further heads; an OutputError where that fails."""
        tensors = {"logits": self.logits_NC, "labels": self.labels_N, "index": self.index_N, **self.others}
        contents = to_bytes(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            metadata={"classes": "\t".join(self.classes)},
        )
        write_whole(path, lambda stream: stream.write(contents))

    @classmethod
    def read(cls, path: Path, classes: tuple[str, ...]) -> Predictions:
        """Read what :meth:`write` wrote; a CheckpointError where it is absent or damaged."""
        try:
            tensors = load_file(path)
            logits, labels, index = (tensors.pop(name) for name in ("logits", "labels", "index"))
        except (SafetensorError, OSError, KeyError) as error:
            raise CheckpointError(f"{path}: no readable predictions ({error}); train this fold again") from error
        return cls(classes, logits, labels, index, tensors)


@torch.no_grad()
def predict(learner: Learner, loader: Iterable[Any], world: ProcessGroup, journal: Journal) -> Predictions:
    """Run a model over a list; each process over its part, and every process returns the whole."""
    training = learner.training
    learner.eval()
    class_features = learner.clip.class_features()

    def outputs(pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = learner(pixels.to(world.device, non_blocking=True), class_features)
        return found

    found = collect(outputs, loader, learner.classes, lambda _done: journal.advance(), world.everyones)
    learner.train(training)
    return found


def collect(
    outputs_of: Callable[[torch.Tensor], Mapping[str, torch.Tensor]],
    loader: Iterable[Any],
    classes: tuple[str, ...],
    advance: Callable[[int], None],
    everyones: Callable[[list[dict[str, torch.Tensor]]], Sequence[list[dict[str, torch.Tensor]]]] = lambda own: [own],
) -> Predictions:
    """Run a model over batches and return everything in the order of the list."""
    parts: list[dict[str, torch.Tensor]] = []
    for batch in loader:
        outputs = outputs_of(batch["pixels"])
        row = {"index": batch["index"], "labels": batch["label"], "logits": outputs["logits"].float().cpu()}
        if "actions" in outputs:
            row |= {"actions": outputs["actions"].float().cpu(), "actions_target": batch["actions"]}
        parts.append(row)
        advance(len(batch["index"]))
    whole = [part for everyone in everyones(parts) for part in everyone]
    columns = {name: torch.cat([part[name] for part in whole]) for name in whole[0]}
    order = columns["index"].argsort()
    ordered = {name: column[order] for name, column in columns.items()}
    logits, labels, index = (ordered.pop(name) for name in ("logits", "labels", "index"))
    return Predictions(classes, logits, labels, index, ordered)
