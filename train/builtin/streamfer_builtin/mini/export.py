"""Stage `export`: join the stages, measure, and write the weights file with its card."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from streamfer.geometry import CropProfile, tight_crop
from streamfer.models.card import ModelCard, PixelProfile, digest_of
from streamfer.models.dfer_clip import DferClip
from streamfer.models.inference import DferClipModel
from streamfer.models.weights import write_weights
from streamfer_builtin.mini import clips, joint, measure, renders
from streamfer_builtin.mini.augment import CROP
from streamfer_builtin.mini.data import Corpus, digests
from streamfer_builtin.mini.recipe import Recipe
from streamfer_builtin.mini.shipping import shipped_model
from streamfer_builtin.render.actions import ACTION_UNITS
from streamfer_builtin.render.clips import RenderedClips

log = structlog.get_logger(__name__)

#: Training clips that the probe for direction is fitted on.
_PROBED = 1_500
LICENCES = {
    True: (
        "Weights trained from scratch on third-party photographs (FER2013, collected from the web for research, no "
        "licence stated; labelled news photographs of muxspace/facial_expressions, rights with their owners) and on "
        "rendered faces. For evaluation and research; the user decides about, and answers for, any other use."
    ),
    False: (
        "Apache-2.0. Trained from scratch on faces rendered from the ICT face model (MIT); no photograph of a person "
        "was used."
    ),
}


def crop_profile() -> CropProfile:
    """Return the crop that the training pictures have: FER2013's own framing."""
    return tight_crop(CROP)


def export(recipe: Recipe, corpus: Corpus, to: Path, date: str, *, views: int = 8) -> ModelCard:
    """Measure what the stages made and write the weights file `to`, float16 on disk; returns its card.

    Raises:
        ConfigError: a stage has not run.
        OutputError: the file cannot be written.
    """
    joined, joint_part = joint.read_joint(recipe.work, recipe.sizes)
    window, clips_part = clips.read_clips(recipe)
    model = shipped_model(joined, window, recipe.sizes)
    train = renders.load(recipe.renders, "train", limit=recipe.clips.rendered)
    val = renders.load(recipe.renders, "val")
    metrics = _measured(measure.Network(model, joined.expression), corpus, train, val, views)
    made = {"sizes": recipe.sizes.model_dump(), "joint": joint_part, "clips": clips_part}
    if recipe.photographs:
        made["images"] = _images_part(recipe)
    card = _card(recipe, model, metrics, {"date": date, "recipe": made, "commands": commands(recipe)})
    card = replace(card, train={**card.train, "metrics": {**metrics, "speed": _speed(model, card)}})
    card = replace(card, train={**card.train, "data": _data(recipe)})
    write_weights(to, model, card, half=True)
    log.info("mini.export", file=to.name, bytes=to.stat().st_size, digest=digest_of(to)[:12])
    return card


def commands(recipe: Recipe) -> list[str]:
    """Return the commands that make the file again."""
    config = "" if recipe.name == "mini" else f" -c train/builtin/configs/{recipe.name.replace('-', '_')}.yaml"
    stages = (["images"] if recipe.photographs else []) + ["joint", "clips", "export"]
    return [f"streamfer train mini {stage}{config}" for stage in stages]


def _measured(
    network: measure.Network,
    corpus: Corpus,
    train: RenderedClips,
    val: RenderedClips,
    views: int,
) -> dict[str, Any]:
    log.info("mini.export.measuring", pictures=len(corpus.val), clips=len(val))
    windows = measure.encode_rendered(network, val)
    metrics = measure.emotions(network, corpus.val, corpus.held_out, views)
    metrics["action_units"] = measure.action_units(network, corpus.val, val, windows)
    probed = renders.chosen(train, slice(_PROBED))
    metrics["motion"] = measure.motion(network, probed, measure.encode_rendered(network, probed), val, windows)
    metrics["parameters"] = sum(p.numel() for p in network.model.parameters())
    metrics["rendered_clips"] = {"train": len(train), "val": len(val)}
    return metrics


def _card(recipe: Recipe, model: DferClip, metrics: dict[str, Any], train: dict[str, Any]) -> ModelCard:
    thresholds = metrics["action_units"]["thresholds"]
    return ModelCard(
        name=recipe.name,
        config=model.config,
        pixels=PixelProfile(size=CROP),
        crop=crop_profile(),
        licence=LICENCES[recipe.photographs],
        calibration_temperature=metrics["calibration"]["temperature"],
        action_thresholds=tuple(thresholds[name] for name in ACTION_UNITS),
        train={**train, "text_features": "L2-normalised"},
    )


def _speed(model: DferClip, card: ModelCard) -> dict[str, Any]:
    # Loading folds norms into convolutions: the copy takes that, not the model that is written.
    return measure.speed(DferClipModel(copy.deepcopy(model), card, digest=""))


def _images_part(recipe: Recipe) -> dict[str, Any]:
    from streamfer_builtin.mini import checkpoint, images

    state = checkpoint.load(recipe.work / images.CHECKPOINT, "images")
    return {**state["recipe"], "epochs_done": state["epoch"]}


def _data(recipe: Recipe) -> dict[str, str]:
    used = digests(recipe.data)
    return used if recipe.photographs else {name: digest for name, digest in used.items() if "val" in name}
