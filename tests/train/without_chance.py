"""Exp-BLIP's training without chance, in this process or, run as a script, in one of its own as torchrun starts it.

What chance decides differs between processes: dropout and drawn negatives. Without them two train as one.
"""

from __future__ import annotations

import sys

import torch

from streamfer_train.exp_blip import objectives
from streamfer_train.exp_blip.__main__ import main
from streamfer_train.exp_blip.caption_learner import CaptionLearner
from streamfer_train.exp_blip.query_learner import QueryLearner


def nearest_negative(scores: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Return the hardest negative of each row (B,), where the recipe draws one by its score."""
    return scores.detach().masked_fill(partners, -torch.inf).argmax(1)


def _evaluating(self: torch.nn.Module, _mode: bool = True) -> torch.nn.Module:
    return torch.nn.Module.train(self, mode=False)


REPLACED = (
    (QueryLearner, "train", _evaluating),
    (CaptionLearner, "train", _evaluating),
    (objectives, "hard_negatives", nearest_negative),
)
"""What is replaced: owner, name, replacement."""

if __name__ == "__main__":
    for owner, name, replacement in REPLACED:
        setattr(owner, name, replacement)
    sys.exit(main(sys.argv[1:]))
