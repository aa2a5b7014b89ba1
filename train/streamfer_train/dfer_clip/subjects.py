"""The model under evaluation, whatever file it comes in: streamfer's weights, a run's checkpoint, the authors' file.

Shape suffixes: B clips, T frames, S image side, C classes, A action units.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from streamfer.files import sha256_of
from streamfer.models.card import SUFFIX
from streamfer.models.expression import ModelInfo
from streamfer.models.import_official import import_checkpoint
from streamfer.models.inference import DferClipModel, load_model
from streamfer.models.precision import choose_device
from streamfer.models.registry import find_model, list_models
from streamfer_train.dfer_clip.model import RECIPE, load_learner
from streamfer_train.recipes.checkpoint import is_checkpoint

log = logging.getLogger(__name__)

#: uint8 (B, T, 3, S, S) to float32 on the host: ``logits`` (B, C), and where the model has that head ``actions``
#: (B, A), rising with presence.
Predict = Callable[[torch.Tensor], dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model and what the report says of it."""

    info: ModelInfo
    origin: str
    size: int  #: side of the pictures that it reads, pixels
    temperature: float  #: logits are divided by it before the softmax
    fold: int | None  #: fold whose training list it has learned from, where the file says so
    predict: Predict


def read_subject(weights: str, *, device: str = "auto", precision: str = "auto") -> Subject:
    """Load the model that ``weights`` names.

    Args:
        weights: name of an installed model, or a file: streamfer's weights, a checkpoint of
            ``streamfer train dfer-clip``, or a checkpoint of DFER-CLIP's authors (read without running anything in it).
        precision: of the image encoder; a run's checkpoint keeps the precision it was trained in.

    Raises:
        UnknownModelError: neither a model's name nor a file.
        CheckpointError: the file is damaged or foreign.
        UnsafeCheckpointError: the file asks to run something; nothing was run.
    """
    path = Path(weights)
    if path.suffix == SUFFIX or not path.is_file() or any(weights == entry.name for entry in list_models()):
        return _from_weights(find_model(weights), device, precision, "streamfer weights")
    if is_checkpoint(path, RECIPE):
        return _from_run(path, device)
    return _from_authors(path, device, precision)


def _from_weights(path: Path, device: str, precision: str, origin: str, name: str | None = None) -> Subject:
    model = load_model(str(path), device=device, precision=precision)
    fold, size, temperature = model.card.train.get("fold"), model.card.pixels.size, model.card.calibration_temperature
    info = replace(model.info, name=name or model.info.name)
    return Subject(info, origin, size, temperature, fold if isinstance(fold, int) else None, _product(model))


def _from_authors(path: Path, device: str, precision: str) -> Subject:
    with tempfile.TemporaryDirectory(prefix="streamfer-") as folder:
        converted = Path(folder) / f"official{SUFFIX}"
        import_checkpoint(path, "official", output=converted)
        subject = _from_weights(converted, device, precision, "checkpoint of DFER-CLIP's authors", path.stem)
    # The digest of the converted file would mean nothing to a reader.
    return replace(subject, info=replace(subject.info, digest=sha256_of(path)))


def _product(model: DferClipModel) -> Predict:
    """Run the product's own code path: each frame encoded once, then the window read."""

    def predict(pixels_BT3SS: torch.Tensor) -> dict[str, torch.Tensor]:
        clips, frames = pixels_BT3SS.shape[:2]
        crops_FSS3 = np.ascontiguousarray(pixels_BT3SS.flatten(0, 1).permute(0, 2, 3, 1).numpy())
        features_FD = model.encode(crops_FSS3)
        outputs = {"logits": model.logits(features_FD.reshape(clips, frames, -1)).float().cpu()}
        if model.info.action_units:
            intensities_FA = torch.from_numpy(model.actions(features_FD))
            outputs["actions"] = intensities_FA.reshape(clips, frames, -1).mean(dim=1)
        return outputs

    return predict


def _from_run(path: Path, device: str) -> Subject:
    learner, config, found = load_learner(path)
    chosen = choose_device(device)
    learner = learner.to(chosen.device).eval()
    with torch.inference_mode():
        class_features_CD = learner.clip.class_features()

    @torch.inference_mode()
    def predict(pixels_BT3SS: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = learner(pixels_BT3SS.to(chosen.device), class_features_CD)
        return {name: tensor.float().cpu() for name, tensor in outputs.items()}

    fold, seed = found.about["fold"], found.about["seed"]
    log.info(
        "dfer_clip.checkpoint_loaded", extra={"path": str(path), "fold": fold, "seed": seed, "device": chosen.device}
    )
    info = ModelInfo(
        name=f"{path.parent.name}/{path.stem}",
        digest=sha256_of(path),
        classes=learner.classes,
        frames=config.data.frames,
        feature_dim=learner.sizes.embed_dim,
        crop=learner.sizes.crop,
        precision=learner.precision,
        device=chosen.device,
        licence="your own training",
        action_units=learner.clip.config.action_units,
    )
    origin, size = "checkpoint of streamfer train dfer-clip", learner.sizes.pixels.size
    return Subject(info, origin, size, 1.0, fold, predict)
