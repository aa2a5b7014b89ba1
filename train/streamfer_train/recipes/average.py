"""A moving average of weights: what evaluation and export may take instead of the last step's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """A moving average of everything that learns, running statistics of norms included."""

    def __init__(self, learner: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in _moving(learner).items()}

    @torch.no_grad()
    def update(self, learner: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` steps; the memory grows with them, else the random start would stay."""
        keep = min(self.decay, (1 + step) / (10 + step))
        now = _moving(learner)
        torch._foreach_lerp_(list(self.tensors.values()), [now[name] for name in self.tensors], 1 - keep)

    @contextlib.contextmanager
    def in_place_of(self, learner: nn.Module) -> Iterator[None]:
        """Lend the averaged weights to ``learner`` for a while."""
        own = {name: tensor.detach().clone() for name, tensor in _moving(learner).items()}
        learner.load_state_dict(self.tensors, strict=False)
        try:
            yield
        finally:
            learner.load_state_dict(own, strict=False)


def _moving(learner: nn.Module) -> dict[str, Tensor]:
    """Return what training changes, by name: trained weights, and buffers of floating point that are stored."""
    trained = {name: weight for name, weight in learner.named_parameters() if weight.requires_grad}
    stored = learner.state_dict()
    norms = {n: b for n, b in learner.named_buffers() if n in stored and b.is_floating_point() and "running_" in n}
    return {**trained, **norms}
