"""Linear probes: what one linear layer reads from frozen features, action units (F1) or emotions (accuracy).

Source: Exp-BLIP (BMVC 2023), section 4.3.
Shape suffixes: N faces of training, M of the test, D features, U units, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamfer.errors import ConfigError

#: Stands in label tensors for "nobody looked".
UNKNOWN = -1.0
_LEARNING_RATE, _PUBLISHED_RATE, _WEIGHT_DECAY = 5e-2, 1e-3, 1e-3


@dataclass(frozen=True, slots=True)
class Probe:
    """How one linear layer is trained on frozen features."""

    epochs: int = 100  #: full batches; the paper has 100 on BP4D and 400 on RAF-AU
    seed: int = 0
    #: as the paper says: features as they are, one rate; else standardised, falling to zero. The paper names neither
    #: optimiser nor rate, which are LAVIS's and ours
    published: bool = False

    def units(
        self, train_ND: Tensor, targets_NU: Tensor, test_MD: Tensor, test_targets_MU: Tensor, units: Sequence[int]
    ) -> dict[int, float]:
        """Return F1 (0-1) on other faces of each unit that occurs there.

        Args:
            targets_NU: 1 present, 0 absent, ``UNKNOWN`` where nobody looked, which counts nowhere.
            test_MD: features of the same kind; ``test_targets_MU`` likewise.

        Raises:
            ConfigError: features are not finite.
        """
        known_NU = targets_NU != UNKNOWN

        def loss(logits_NU: Tensor) -> Tensor:
            each = F.binary_cross_entropy_with_logits(logits_NU, targets_NU.clamp(min=0), reduction="none")
            return (each * known_NU).sum() / known_NU.sum().clamp(min=1)

        said_MU = self._train(train_ND, test_MD, len(units), loss) > 0
        scores = {}
        for place, unit in enumerate(units):
            known = test_targets_MU[:, place] != UNKNOWN
            true, said = test_targets_MU[known, place] == 1, said_MU[known, place]
            if true.any():
                scores[unit] = float(2 * (true & said).sum() / (true.sum() + said.sum()))
        return scores

    def emotions(
        self, train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, test_labels_M: Tensor
    ) -> tuple[float, float]:
        """Tell classes (int64, from 0); return accuracy and mean recall (0-1) on others.

        Raises:
            ConfigError: features are not finite.
        """
        classes = int(max(labels_N.max(), test_labels_M.max())) + 1
        said_MC = self._train(train_ND, test_MD, classes, lambda logits_NC: F.cross_entropy(logits_NC, labels_N))
        hit = (said_MC.argmax(1) == test_labels_M).double()
        recalls = [hit[test_labels_M == label].mean() for label in torch.unique(test_labels_M)]
        return float(hit.mean()), float(torch.stack(recalls).mean())

    def _train(self, train_ND: Tensor, test_MD: Tensor, outputs: int, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logits of the test features after training with AdamW."""
        if not (torch.isfinite(train_ND).all() and torch.isfinite(test_MD).all()):
            raise ConfigError("a feature is not finite; encode again in float32")
        mean_D, spread_D = train_ND.float().mean(0), train_ND.float().std(0, correction=0).clamp(min=1e-6)
        if self.published:
            mean_D, spread_D = torch.zeros_like(mean_D), torch.ones_like(spread_D)
        # Features often come from inference mode, whose tensors autograd refuses; arithmetic out here makes plain ones.
        inputs_ND = (train_ND.float() - mean_D) / spread_D
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            layer = nn.Linear(inputs_ND.shape[1], outputs).to(inputs_ND.device)
        rate = _PUBLISHED_RATE if self.published else _LEARNING_RATE
        optimiser = torch.optim.AdamW(layer.parameters(), lr=rate, weight_decay=_WEIGHT_DECAY)
        end = rate if self.published else 0.0
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs, eta_min=end)
        for _ in range(self.epochs):
            optimiser.zero_grad()
            loss(layer(inputs_ND)).backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            logits: Tensor = layer((test_MD.float() - mean_D) / spread_D)
        return logits
