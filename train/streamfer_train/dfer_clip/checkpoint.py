"""Trained models from the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

from streamfer.models.weights import check_tensors
from streamfer_train.dfer_clip.backbones import Backbone, Sizes
from streamfer_train.dfer_clip.config import RunConfig, parse_config
from streamfer_train.dfer_clip.model import RECIPE, Learner, build_learner
from streamfer_train.recipes.checkpoint import Checkpoint, taking_apart


def load_learner(path: Path) -> tuple[Learner, RunConfig, Checkpoint]:
    """Read a trained model from a checkpoint, averaged weights where the run kept them; CPU, evaluation mode.

    Raises:
        CheckpointError: absent, damaged or foreign; the first tensor that does not fit is named.
    """
    found = Checkpoint.load(path, RECIPE)
    config = parse_config(found.config, str(path))
    with taking_apart(path):
        sizes = Sizes.from_dict(found.about["sizes"])
    learner = build_learner(config, Backbone(sizes, {}, (), path.name), seed=0)
    check_tensors(learner.state_dict(), found.model, str(path))
    learner.load_state_dict(found.model)
    learner.load_state_dict(found.average or {}, strict=False)
    return learner.requires_grad_(False).eval(), config, found
