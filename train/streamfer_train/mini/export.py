"""The shipped file of the mini model: colour folded in, prompts baked, one safetensors file with its metadata."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor

from streamfer.errors import ConfigError
from streamfer.geometry import loose_crop
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip, DferClipConfig
from streamfer.models.weights import write_weights
from streamfer_train.mini import augment
from streamfer_train.mini.clips import TEMPORAL, ClipModel, ClipRecipe, encode
from streamfer_train.mini.data import Corpus, Pictures, digests
from streamfer_train.mini.evaluate import calibrate, crops_per_second, score
from streamfer_train.mini.images import ImageModel, extent, predict

log = structlog.get_logger(__name__)

NAME = "mini"
LICENCE = (
    "Weights trained from scratch on third-party photographs (FER2013, collected from the web for research, no "
    "licence stated; labelled news photographs of muxspace/facial_expressions, rights with their owners). For "
    "evaluation and research; the user decides about, and answers for, any other use."
)
# ITU-R BT.601 luma, which turned the training pictures grey.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Trained:
    """Both stages' models as they stand in a run's folder, and how far stage 1 went."""

    images: ImageModel
    clips: ClipModel
    recipes: dict[str, Any]


def read_images(folder: Path, actions: int) -> tuple[ImageModel, dict[str, Any]]:
    """Read the averaged model of stage 1, its recipe and the epochs done.

    Raises: ConfigError when the stage has not run in `folder`.
    """
    state = _state(folder / "images.pt", "images")
    model = ImageModel(actions)
    model.load_state_dict(state["average"])
    return model.eval(), {**state["recipe"], "epochs_done": state["epoch"]}


def read(folder: Path, actions: int) -> Trained:
    """Read both stages; raises ConfigError when one has not run in `folder`."""
    images, image_recipe = read_images(folder, actions)
    state = _state(folder / "clips.pt", "clips")
    recipe = ClipRecipe(**state["recipe"])
    clips = ClipModel(recipe)
    clips.load_state_dict(state["model"])
    # The tower keeps training while stage 2 runs: the shipped pair is the tower whose features stage 2 has seen.
    tower = {k.removeprefix("dfer."): v for k, v in state["model"].items() if k.startswith("dfer.image_encoder.")}
    images.load_state_dict(tower, strict=False)
    return Trained(images, clips.eval(), {"images": image_recipe, "clips": asdict(recipe)})


def fold_luma(kernel: Tensor) -> Tensor:
    """Turn a first convolution (O, 3, k, k) that saw grey in three channels into one that reads luma.

    Equal channels give the same output as before, and colour has no effect beyond its brightness.
    """
    return kernel.sum(1, keepdim=True) * torch.tensor(_LUMA).view(1, 3, 1, 1)


def shippable(model: ClipModel) -> DferClip:
    """Return the model with its class features baked, its temperature fixed and its colour folded into luma."""
    config = replace(model.dfer.config, temperature=model.temperature)
    weights = model.dfer.bake().state_dict()
    weights["image_encoder.conv1.weight"] = fold_luma(weights["image_encoder.conv1.weight"])
    shipped = DferClip(config)
    shipped.load_state_dict(weights)
    return shipped.eval()


def measure(trained: Trained, corpus: Corpus, digest: dict[str, str], views: int) -> dict[str, Any]:
    """Score pictures and clips that training never saw, calibrate, and time the encoder.

    A clip is `views` augmented views of a picture (a divisor of 16), each repeated to make 16 frames.
    """
    rng = torch.Generator().manual_seed(11)
    clips, labels = _clip_logits(trained, corpus.val, views, rng), corpus.val.labels
    still = _still_logits(trained, corpus.val)
    held = _clip_logits(trained, corpus.held_out, views, rng)
    encoder = trained.clips.dfer.image_encoder.to(memory_format=torch.channels_last)
    return {
        "views": views,
        "fer2013_val_picture_head": score(predict(trained.images, corpus.val), labels).to_dict(),
        "fer2013_val_still": score(still, labels).to_dict(),
        "fer2013_val_clips": score(clips, labels).to_dict(),
        "faces_held_out_clips": score(held, corpus.held_out.labels).to_dict(),
        "calibration": calibrate(clips, labels),
        "crops_per_second": {
            "threads": torch.get_num_threads(),
            "fp32": round(crops_per_second(encoder, bfloat16=False)),
            "bf16": round(crops_per_second(encoder, bfloat16=True)),
        },
        "parameters": sum(p.numel() for p in trained.clips.dfer.bake().parameters()),
        "data": digest,
    }


def card(config: DferClipConfig, metrics: dict[str, Any], recipes: dict[str, Any], date: str) -> ModelCard:
    """Return what a reader needs to use the file, and how it came to be."""
    numbers = dict(metrics)
    data = numbers.pop("data")
    return ModelCard(
        name=NAME,
        config=config,
        pixels=PixelProfile(size=augment.CROP),
        crop=loose_crop(augment.CROP),
        licence=LICENCE,
        calibration_temperature=numbers["calibration"]["temperature"],
        train={
            "date": date,
            "commands": commands(recipes["images"]["epochs"]),
            "recipes": recipes,
            "data": data,
            "metrics": numbers,
            "text_features": "L2-normalised",
        },
    )


def commands(epochs: int) -> list[str]:
    """Return the commands that make the file again."""
    run = "python -m streamfer_train.mini"
    return [f"{run} images --data DATA --epochs {epochs}", f"{run} clips --data DATA", f"{run} export --data DATA"]


def export(folder: Path, corpus: Corpus, data: Path, to: Path, date: str, views: int = 16) -> ModelCard:
    """Measure the models in `folder` and write the weights file `to`, float16 on disk; returns its card."""
    trained = read(folder, len(corpus.mirror))
    metrics = measure(trained, corpus, digests(data), views)
    shipped = shippable(trained.clips)
    described = card(shipped.config, metrics, trained.recipes, date)
    write_weights(to, shipped, described, half=True)
    log.info("mini.export", file=to.name, bytes=to.stat().st_size, **metrics["calibration"])
    return described


@torch.no_grad()
def _clip_logits(trained: Trained, pictures: Pictures, views: int, rng: torch.Generator) -> Tensor:
    features = encode(trained.images, pictures, torch.arange(len(pictures)), views, rng)
    clips = features.views_NVD.repeat_interleave(TEMPORAL.frames // views, 1)
    return torch.cat([trained.clips(part.float()) for part in torch.split(clips, 512)])


@torch.no_grad()
def _still_logits(trained: Trained, pictures: Pictures) -> Tensor:
    out = []
    for rows in torch.split(torch.arange(len(pictures)), 256):
        features = trained.images.encode(augment.crop(pictures.pixels[rows], extent(pictures)))
        out.append(trained.clips(features[:, None].expand(-1, TEMPORAL.frames, -1)))
    return torch.cat(out)


def _state(path: Path, stage: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"{path}: no checkpoint; run `python -m streamfer_train.mini {stage}` with the same --out first"
        )
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
