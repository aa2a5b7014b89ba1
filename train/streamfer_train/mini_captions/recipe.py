"""The recipe of `streamfer train mini-captions`, read from YAML and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from streamfer.models.captioning.mini_network import MiniSizes
from streamfer_train.mini.recipe import Schedule
from streamfer_train.recipes.settings import Part, load_settings

EXAMPLE = "configs/train/mini_captions.yaml"


class FeaturesPart(Part):
    """Step `features`: what the encoder sees, kept once and for all.

    `views` of each photograph (the first is the plain crop, the others are augmented by `strength`), and `frames` of
    each of up to `clips` rendered clips.
    """

    views: int = Field(2, ge=1)
    frames: int = Field(8, ge=2, le=16)
    clips: int = Field(4_000, ge=1)
    strength: float = Field(0.5, ge=0, le=1)
    taps: tuple[str, ...] = ()
    seed: int = 5


class NetworkPart(Part):
    """Sizes of Q-Former and decoder; `MiniSizes` says what each is. `vocabulary` is the most tokens it may have."""

    vocabulary: int = Field(1_200, ge=400)
    queries: int = 8
    query_width: int = 128
    query_layers: int = 2
    query_heads: int = 4
    width: int = 192
    layers: int = 3
    heads: int = 4
    mlp_ratio: int = 4
    positions: int = 288
    keyframes: int = 4

    def sizes(self, vocabulary: int) -> MiniSizes:
        """Return the network's sizes with the vocabulary that was found."""
        return MiniSizes(**{**self.model_dump(), "vocabulary": vocabulary})


class TrainPart(Schedule):
    """Step `train`: `steps` batches an epoch, of faces of which `render_share` are rendered clips.

    Each face is described (with a course in `course` of the cases), asked about a region in `region` of the cases,
    about an action unit, and about its emotion in `feeling` of the cases. A plan's token counts `plan_weight` words.
    """

    epochs: int = Field(10, ge=1)
    batch: int = Field(96, ge=2)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warm_up: float = Field(0.03, ge=0, lt=1)
    ema: float = Field(0.998, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    seed: int = 3
    steps: int = Field(120, ge=1)
    power: float = Field(0.2, ge=0, le=1)
    render_share: float = Field(0.25, ge=0, le=1)
    course: float = Field(0.35, ge=0, le=1)
    region: float = Field(0.4, ge=0, le=1)
    feeling: float = Field(0.25, ge=0, le=1)
    plan_weight: float = Field(6.0, gt=0)


class CaptionRecipe(Part):
    """Everything that `streamfer train mini-captions` reads.

    `encoder` is the name of an expression model or its weights file; `data` holds fer2013/, faces/ and blendshapes/;
    `renders` the shards of `streamfer train render`; `work` takes features and checkpoints.
    """

    name: str = Field("mini-caption", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    encoder: str = "mini"
    data: Path
    renders: Path
    work: Path
    features: FeaturesPart = FeaturesPart()
    network: NetworkPart = NetworkPart()
    train: TrainPart = TrainPart()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> CaptionRecipe:
    """Read `path` and settings of the form `train.epochs=2` (values in YAML).

    Raises:
        ConfigError: the file is absent, is not YAML, or a setting is unknown or out of range.
    """
    return load_settings(CaptionRecipe, path, overrides, example=EXAMPLE)
