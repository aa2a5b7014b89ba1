"""Stage `export`: join the stages, measure, and write the weights file with its card."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import structlog

from streamfer.files import sha256_of
from streamfer.geometry import LOOSE_TEMPLATE_128, CropProfile
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.expression import Abstention
from streamfer.models.inference import DferClipModel
from streamfer.models.weights import write_weights
from streamfer_builtin.mini import abstain, clips, joint, measure, renders
from streamfer_builtin.mini.augment import CROP
from streamfer_builtin.mini.data import Corpus, digests
from streamfer_builtin.mini.networks import MIDDLE, REACH
from streamfer_builtin.mini.recipe import Recipe
from streamfer_builtin.mini.shipping import shipped_model
from streamfer_builtin.render.actions import ACTION_UNITS
from streamfer_builtin.render.clips import RenderedClips

log = structlog.get_logger(__name__)

#: Training clips that the probe for direction is fitted on.
_PROBED = 1_500
LICENCE = (
    "EfficientNet-Lite0's weights (Apache-2.0), trained further on third-party photographs (FER2013, collected from "
    "the web for research, no licence stated, with FER+'s votes, MIT; labelled news photographs of "
    "muxspace/facial_expressions, rights with their owners) and on rendered faces. For evaluation and research; the "
    "user decides about, and answers for, any other use."
)
COMMAND = "python -m streamfer_builtin.mini all"


def tight_crop(size: int) -> CropProfile:
    """Return the similarity crop with FER2013's framing at ``size`` pixels: brows to chin, little hair, no neck.

    The template about its centre at 59.08/48 of :func:`~streamfer.geometry.loose_crop`: there the mean face of crops so
    aligned correlates best with the mean face of FER2013's pictures as they are.
    """
    scale = 59.08 / 128 * size / 48
    return CropProfile(
        kind="similarity",
        size=size,
        landmarks=tuple(((x - 64) * scale + size / 2, (y - 64) * scale + size / 2) for x, y in LOOSE_TEMPLATE_128),
    )


def crop_profile() -> CropProfile:
    """Return the crop that the training pictures have: FER2013's own framing."""
    return tight_crop(CROP)


def export(recipe: Recipe, corpus: Corpus, to: Path, date: str, *, views: int = 4) -> ModelCard:
    """Measure what the stages made and write the weights file `to`, float16 on disk; returns its card.

    Raises:
        ConfigError: a stage has not run.
        OutputError: the file cannot be written.
    """
    joined, joint_part = joint.read_joint(recipe)
    window, clips_part = clips.read_clips(recipe)
    model = shipped_model(joined, window, recipe.sizes)
    train = renders.load(recipe.renders, "train", limit=recipe.rendered)
    val = renders.load(recipe.renders, "val", limit=recipe.rendered_val)
    metrics = _measured(measure.Network(model, joined.expression), corpus, train, val, views)
    made = {"sizes": recipe.sizes.model_dump(), "joint": joint_part, "clips": clips_part}
    described = _card(recipe, model, metrics, {"date": date, "command": COMMAND, "recipe": made})
    metrics["speed"] = measure.speed(DferClipModel(copy.deepcopy(model), described, digest=""))
    write_weights(to, model, described, half=True)
    log.info("mini.export.written", path=str(to), digest=sha256_of(to)[:12])
    return described


def _measured(
    network: measure.Network,
    corpus: Corpus,
    train: RenderedClips,
    val: RenderedClips,
    views: int,
) -> dict[str, Any]:
    log.info("mini.export.measuring", pictures=len(corpus.last_val), clips=len(val))
    windows = measure.encode_rendered(network, val)
    metrics, temperature = measure.emotions(network, corpus, views)
    metrics["abstention"] = abstain.choose(network, corpus, temperature)
    metrics["action_units"] = measure.action_units(network, corpus, val, windows)
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
        pixels=PixelProfile(size=recipe.sizes.image, mean=(MIDDLE,) * 3, std=(REACH,) * 3),
        crop=crop_profile(),
        licence=LICENCE,
        calibration_temperature=metrics["calibration"]["temperature"],
        action_thresholds=tuple(thresholds[name] for name in ACTION_UNITS),
        abstention=Abstention(**metrics["abstention"]["limits"]),
        train={**train, "data": digests(recipe.data), "text_features": "L2-normalised", "metrics": metrics},
    )
