"""Linear probes: what one linear layer reads from frozen features, action units (F1) or emotions (accuracy).

Source: Exp-BLIP (BMVC 2023), section 4.3. How the 32 query outputs are pooled there is not said; both ways are here.
Shape suffixes: N faces, Q queries, D features, U units, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamfer.errors import ConfigError
from streamfer_train.captions.labels import FaceLabels

Pooling = Literal["mean", "concat"]
#: Stands in label tensors for "nobody looked".
UNKNOWN = -1.0


@dataclass(frozen=True, slots=True)
class ProbeRecipe:
    """How the layer is trained: full batches of standardised features, AdamW, cosine to zero."""

    epochs: int = 100
    learning_rate: float = 5e-2
    weight_decay: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class UnitProbe:
    """F1 (0-1) of each unit on the test faces, and their mean over units that occur there."""

    f1: dict[int, float]
    mean_f1: float


@dataclass(frozen=True, slots=True)
class EmotionProbe:
    """Accuracy and mean recall over classes (0-1) on the test faces."""

    accuracy: float
    mean_recall: float


def pool(features: Tensor, pooling: Pooling = "mean") -> Tensor:
    """Return features (N, D) from (N, Q, D), by mean or side by side; (N, D) stays as it is.

    Raises:
        ConfigError: the features have another shape.
    """
    if features.ndim == 2:
        return features
    if features.ndim != 3:
        raise ConfigError(f"features of shape {tuple(features.shape)}: a probe takes (N, D) or (N, Q, D)")
    return features.mean(1) if pooling == "mean" else features.flatten(1)


def unit_targets(faces: Sequence[FaceLabels], units: Sequence[int]) -> Tensor:
    """Return labels (N, U) float32: 1 present, 0 absent, -1 where nobody looked."""
    rows = [
        [1.0 if unit in (face.action_units or ()) else 0.0 if unit in face.absent else UNKNOWN for unit in units]
        for face in faces
    ]
    return torch.tensor(rows).reshape(len(rows), len(units))


def probe_units(
    train_ND: Tensor,
    targets_NU: Tensor,
    test_MD: Tensor,
    test_targets_MU: Tensor,
    units: Sequence[int],
    recipe: ProbeRecipe | None = None,
) -> UnitProbe:
    """Train one linear layer on frozen features and score it on others; unknown labels count nowhere.

    Raises:
        ConfigError: shapes do not fit, or features are not finite.
    """
    _check(train_ND, targets_NU, test_MD, test_targets_MU)
    if targets_NU.shape[1:] != test_targets_MU.shape[1:] or targets_NU.shape[1] != len(units):
        raise ConfigError(
            f"labels of {targets_NU.shape[1]} and {test_targets_MU.shape[1]} units for {len(units)} names"
        )
    known_NU = targets_NU != UNKNOWN

    def loss(logits_NU: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(logits_NU, targets_NU.clamp(min=0), reduction="none")
        return (each * known_NU).sum() / known_NU.sum().clamp(min=1)

    said_MU = _train(train_ND, test_MD, len(units), loss, recipe or ProbeRecipe()) > 0
    scores = {}
    for place, unit in enumerate(units):
        known = test_targets_MU[:, place] != UNKNOWN
        true, said = test_targets_MU[known, place] == 1, said_MU[known, place]
        if true.any():
            scores[unit] = float(2 * (true & said).sum() / (true.sum() + said.sum()))
    return UnitProbe(scores, sum(scores.values()) / len(scores) if scores else 0.0)


def probe_emotions(
    train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, test_labels_M: Tensor, recipe: ProbeRecipe | None = None
) -> EmotionProbe:
    """Train one linear layer to tell classes (int64, from 0) on frozen features and score it on others.

    Raises:
        ConfigError: shapes do not fit, or features are not finite.
    """
    _check(train_ND, labels_N, test_MD, test_labels_M)
    classes = int(max(labels_N.max(), test_labels_M.max())) + 1

    def loss(logits_NC: Tensor) -> Tensor:
        return F.cross_entropy(logits_NC, labels_N)

    said_M = _train(train_ND, test_MD, classes, loss, recipe or ProbeRecipe()).argmax(1)
    hit = (said_M == test_labels_M).double()
    recalls = [hit[test_labels_M == label].mean() for label in torch.unique(test_labels_M)]
    return EmotionProbe(float(hit.mean()), float(torch.stack(recalls).mean()))


def _train(
    train_ND: Tensor, test_MD: Tensor, outputs: int, loss: Callable[[Tensor], Tensor], recipe: ProbeRecipe
) -> Tensor:
    """Return the logits of the test features after training."""
    mean_D, spread_D = train_ND.float().mean(0), train_ND.float().std(0, correction=0).clamp(min=1e-6)
    # Features often come from inference mode, whose tensors autograd refuses; arithmetic out here makes plain ones.
    inputs_ND = (train_ND.float() - mean_D) / spread_D
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        layer = nn.Linear(inputs_ND.shape[1], outputs).to(inputs_ND.device)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    for _ in range(recipe.epochs):
        optimiser.zero_grad()
        loss(layer(inputs_ND)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        logits: Tensor = layer((test_MD.float() - mean_D) / spread_D)
    return logits


def _check(train_ND: Tensor, labels: Tensor, test_MD: Tensor, test_labels: Tensor) -> None:
    for features, rows, side in ((train_ND, labels, "training"), (test_MD, test_labels, "test")):
        if features.ndim != 2 or not len(features) or len(features) != len(rows):
            raise ConfigError(f"{side}: features {tuple(features.shape)} for {len(rows)} labels; give (N, D) for N")
        if not torch.isfinite(features).all():
            raise ConfigError(f"{side}: a feature is not finite; encode again in float32")
    if train_ND.shape[1] != test_MD.shape[1]:
        raise ConfigError(f"{train_ND.shape[1]} and {test_MD.shape[1]} features; encode both sides with one model")
